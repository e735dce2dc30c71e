"""When sessions are saved, and what becomes of a failure. The store knows how; nobody else decides when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ds4_mlx.cache.segment_file import ModelMark
from ds4_mlx.errors import UserError

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel
    from ds4_mlx.engine.session import Session


@dataclass
class SavePolicy:
    """Saves sessions at message ends.

    which: "saved" are sessions that were saved or restored before, "all" every one, "none" only what is asked for.
    tell: gets a sentence when saving fails, once; generation goes on.
    """

    which: Literal["all", "saved", "none"] = "saved"
    tell: Callable[[str], None] = lambda text: None
    failed: bool = field(default=False, init=False)

    def message_ended(
        self,
        session: Session,
        messages: list[dict[str, Any]] | None = None,
        *,
        name: str | None = None,
        **options: Any,
    ) -> None:
        """To be called when an answer is complete or was stopped. messages: the conversation up to here; options: how
        it was held, kept with it. A session that is given a name is one to be saved.
        """
        if self.wants(session, name):
            self.attempt(lambda: session.save(name, messages=messages, options=options or None))

    def wants(self, session: Session, name: str | None = None) -> bool:
        """Whether the session is one to be saved."""
        return self.which == "all" or (self.which == "saved" and (session.head is not None or name is not None))

    def attempt(self, save: Callable[[], object]) -> None:
        """Saves; a failure is told."""
        try:
            save()
            self.failed = False
        except UserError as error:
            if not self.failed:
                self.failed = True
                self.tell(str(error))


def mark_of(model: LanguageModel) -> ModelMark:
    """Which memories the model can go on from."""
    checkpoint, numerics = model.checkpoint, model.numerics
    fingerprint = str(checkpoint.own.get("fingerprint", ""))[:16]
    # Folders of the profile exact hold the same bits as the released one.
    weights = "exact" if checkpoint.profile == "exact" else f"{checkpoint.profile} {fingerprint}".strip()
    words = [str(numerics.dtype).rpartition(".")[-1]]
    words += ["simulated"] if numerics.simulate_quantization else []
    words += ["activations"] if numerics.simulate_activations else []
    words += [f"steered {model.steering.fingerprint}"] if model.steering is not None else []
    return ModelMark(checkpoint.identity(), weights, " ".join(words))


def check_mark(held: ModelMark, model: LanguageModel, label: str, *, allow_other_weights: bool) -> None:
    """Raises `UserError` unless the model can go on from a memory with that mark."""
    mark = model.mark
    if held.checkpoint != mark.checkpoint:
        raise UserError(
            f"Session {label} was made with another checkpoint than {model.checkpoint.path}; open that one."
        )
    if held.numerics != mark.numerics:
        raise UserError(f"Session {label} was computed in {held.numerics!r}; this model runs in {mark.numerics!r}.")
    if held.weights != mark.weights and not allow_other_weights:
        raise UserError(
            f"Session {label} was computed with weights stored as {held.weights!r}, this model has {mark.weights!r}. "
            "Its memory can be used all the same, though not for the same answers: ask with allow_other_weights=True "
            "(--allow-other-weights)."
        )
