"""`ds4-mlx serve`: the model behind HTTP, until it is told to stop."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds4_mlx.commands.sessions import parse_size, size
from ds4_mlx.errors import UserError
from ds4_mlx.terminal import DEFAULT_NOTE, loading_progress, note

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel

IDLE = 75  # seconds for which a connection without a request stays open: an agent's tool may take that long
GRACE = 10  # seconds that running answers have to end once the server is told to stop
_SAVING = 30.0  # seconds that the engine has after that


@dataclass(frozen=True)
class Flags:
    """The flags of the command."""

    model: str | None
    aliases: list[str]
    host: str
    port: int
    api_key: str | None
    api_key_file: Path | None
    insecure: bool
    cors: list[str]
    context: int | None
    kv_memory: str | None
    kv_dir: Path | None
    kv_disk: str | None
    max_batch: int
    max_queue: int
    trace: Path | None
    log_level: str


def run(flags: Flags) -> None:
    """Serves until SIGINT or SIGTERM, then lets answers end and saves sessions. Raises `UserError` for what cannot be
    used or does not fit.
    """
    key = read_key(flags.api_key, flags.api_key_file)
    if key is None and not flags.insecure and not is_local(flags.host):
        raise UserError(
            f"Others can reach {flags.host}, and nothing would keep them from using the model. Give a key with "
            "--api-key-file, or allow it with --insecure."
        )
    aliases = read_aliases(flags.aliases)
    listener = listen(flags.host, flags.port)
    with listener:
        _serve(flags, key, aliases, listener)


def _serve(flags: Flags, key: str | None, aliases: dict[str, str], listener: socket.socket) -> None:
    import uvicorn

    from ds4_mlx.cache.store import DEFAULT_BUDGET, SessionStore
    from ds4_mlx.engine.constraints import build_constraint
    from ds4_mlx.engine.language_model import open_model
    from ds4_mlx.engine.replay import ReplayBook
    from ds4_mlx.engine.saving import SavePolicy
    from ds4_mlx.engine.scheduler import Scheduler
    from ds4_mlx.server.app import create_app
    from ds4_mlx.server.served import ServedModel, ServerOptions

    logging.basicConfig(level=flags.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    memory = None if flags.kv_memory is None else parse_size(flags.kv_memory)
    disk = DEFAULT_BUDGET if flags.kv_disk is None else parse_size(flags.kv_disk)
    model = open_model(flags.model, cache_bytes=memory, kv_dir=flags.kv_dir, kv_bytes=disk)
    model.store.warn = note
    context, lines = plan(model, flags.context, flags.max_batch)
    for line in lines:
        note(line)
    if flags.model is None:
        note(DEFAULT_NOTE)
    served = ServedModel(
        tokenizer=model.tokenizer,
        profile=model.prompt_profile,
        context=context,
        vocab_size=model.config.vocab_size,
        constrain=build_constraint,
        replay=ReplayBook(model.store.directory, warn=note),
    )
    with loading_progress() as progress:
        model.fill(progress)
    scheduler = Scheduler(
        model,
        max_batch=flags.max_batch,
        max_queue=flags.max_queue,
        context=context,
        saving=SavePolicy("all", tell=note),
    )
    try:
        options = ServerOptions(
            aliases=aliases,
            api_key=key,
            local=is_local(flags.host),
            cors=tuple(flags.cors),
            responses=model.store.directory / "responses.sqlite3",
            sessions=SessionStore(model.store.directory, warn=note),
            trace=flags.trace,
            stats=lambda: asdict(scheduler.figures()),
        )
        app = create_app(scheduler, served, options)
        config = uvicorn.Config(
            app,
            log_level=flags.log_level,
            access_log=flags.log_level == "debug",
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=GRACE,
        )
        # uvicorn raises the signal again once it has stopped; the default action would end us before the sessions are
        # saved.
        signal.signal(signal.SIGTERM, _leave)
        listener.listen(128)  # whoever reads the next line may connect at once; uvicorn takes it from the queue
        note(where(listener, key))
        uvicorn.Server(config).run([listener])
    finally:
        note("(saving sessions)")
        scheduler.close(_SAVING)


def _leave(number: int, frame: object) -> None:
    sys.exit(0)


def read_key(key: str | None, path: Path | None) -> str | None:
    """The key from the flag, the environment or a file. Raises `UserError` for an empty one, and for two."""
    if path is not None:
        if key is not None:
            raise UserError("Give either --api-key (or DS4_MLX_API_KEY) or --api-key-file, not both.")
        try:
            key = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The key file {path} cannot be read: {getattr(error, 'strerror', error)}.") from None
    if key is None:
        return None
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UserError("The API key must be printable ASCII, as it travels in a header; this one is not, or is empty.")
    return key


def read_aliases(aliases: list[str]) -> dict[str, str]:
    """NAME or NAME=MODEL. Raises `UserError` for a model that is not one of ours."""
    from ds4_mlx.server.served import CHAT, NAME, REASONER

    result = {}
    for alias in aliases:
        name, _, target = alias.partition("=")
        target = target or NAME
        if not name or target not in (NAME, CHAT, REASONER):
            raise UserError(f"--alias {alias!r}: expected NAME or NAME=MODEL, with {NAME}, {CHAT} or {REASONER}.")
        result[name] = target
    return result


def is_local(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A bound socket: a port that is taken shows before the weights are read."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UserError(f"{host} port {port} cannot be listened on: {error.strerror}. Name another --port.") from None
    return listener


def where(listener: socket.socket, key: str | None) -> str:
    """Where the server is found."""
    host, port = listener.getsockname()[:2]
    origin = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    lock = "with the API key" if key else "without a key"
    return f"Listening {lock} on {origin} (OpenAI's APIs: {origin}/v1, Anthropic's: {origin})"


def plan(model: LanguageModel, asked: int | None, max_batch: int) -> tuple[int, list[str]]:
    """(the context, what takes how much memory). Raises `UserError` with numbers for what does not fit."""
    from ds4_mlx.cache.sizes import bytes_per_token, session_bytes
    from ds4_mlx.engine.feeding import default_chunk
    from ds4_mlx.engine.memory import plan_memory

    sizes: dict[str, Any] = {"dtype": model.numerics.dtype, "packed": model.numerics.simulate_quantization}

    def session(tokens: int) -> int:
        return session_bytes(model.config, tokens, **sizes)

    longest, budget = model.config.max_position_embeddings, model.cache.budget or 0
    context = asked or longest
    if context > longest:
        raise UserError(f"--ctx {context} is longer than the model's {longest}.")
    if session(context) > budget:
        fits = int((budget - session(0)) / bytes_per_token(model.config, **sizes))
        if asked is not None or fits < 2:
            raise UserError(
                f"A session of {context:,} tokens takes {size(session(context))}; sessions may take {size(budget)}. "
                f"Raise --kv-memory{f', or lower --ctx to at most {fits:,}' if fits >= 2 else ''}."
            )
        context = fits
    memory = plan_memory(model, context=context, max_batch=max_batch, chunk=default_chunk())
    memory.check()
    return context, [
        str(memory),
        f"Context {context:,} tokens, of which a session takes {size(session(context))}; "
        f"saved in {model.store.directory} (at most {size(model.store.budget)})",
    ]
