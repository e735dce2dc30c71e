"""Claude Code, Codex and opencode: how each is set up for this server, started, and what its output says.

Nothing but the server is asked: telemetry, updates and catalogues are off. docs/clients.md explains the settings.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

MODEL = "deepseek-v4-flash"


class Heard(NamedTuple):
    """One run's output: what the agent said last, the tools that ran (with whether they succeeded), its own counts."""

    text: str
    ran: list[str]
    counts: dict[str, Any]


class Program(ABC):
    """One agent. home: its HOME, empty at first. context, output: the sizes it is told."""

    binary: str
    name: str
    package: str

    def __init__(self, home: Path, url: str, *, context: int = 200_000, output: int = 32_000) -> None:
        self.home, self.url, self.context, self.output = home, url, context, output

    @abstractmethod
    def set_up(self) -> dict[str, str]:
        """Writes its configuration. Returns its environment, without PATH and HOME."""

    @abstractmethod
    def arguments(self, prompt: str, turn: int) -> list[str]:
        """Its command line; in turn 2 the last conversation goes on, in the others one begins."""

    @abstractmethod
    def heard(self, events: list[dict[str, Any]]) -> Heard:
        """Reads its lines of JSON."""


class ClaudeCode(Program):
    """Speaks /v1/messages. tools: a few of its tools, for a shorter prompt; all by default."""

    binary, name, package = "claude", "Claude Code", "@anthropic-ai/claude-code"
    tools: str | None = None

    def set_up(self) -> dict[str, str]:
        return {
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_AUTH_TOKEN": "any",
            "ANTHROPIC_MODEL": MODEL,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
            "CLAUDE_CODE_SUBAGENT_MODEL": MODEL,
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(self.context),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(self.output),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "CLAUDE_STREAM_IDLE_TIMEOUT_MS": "900000",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_ERROR_REPORTING": "1",
        }

    def arguments(self, prompt: str, turn: int) -> list[str]:
        allowed = ["Read", "Write", "Bash(wc:*)", "Bash(cat:*)"]
        fewer = ["--tools", self.tools] if self.tools else []
        more = ["--continue"] if turn == 2 else []
        shown = ["--output-format", "stream-json", "--verbose"]
        return ["-p", prompt, *more, *shown, *fewer, "--allowedTools", *allowed]

    def heard(self, events: list[dict[str, Any]]) -> Heard:
        names, ran, text, counts = {}, [], "", {}
        for event in events:
            content = event.get("message", {}).get("content") if isinstance(event.get("message"), dict) else None
            for block in content if isinstance(content, list) else []:
                if block.get("type") == "tool_use":
                    names[block["id"]] = block["name"]
                elif block.get("type") == "tool_result":
                    failed = " (failed)" if block.get("is_error") else ""
                    ran.append(names.get(block["tool_use_id"], "?") + failed)
            if event.get("type") == "result":
                text, counts = str(event.get("result", "")), event.get("usage", {})
                if event.get("is_error"):
                    text = f"ERROR: {text}"
        wanted = ("input_tokens", "cache_read_input_tokens", "output_tokens")
        return Heard(text, ran, {name: counts.get(name) for name in wanted})


class Codex(Program):
    """Speaks /v1/responses."""

    binary, name, package = "codex", "Codex CLI", "@openai/codex"

    def set_up(self) -> dict[str, str]:
        folder = self.home / ".codex"
        folder.mkdir(parents=True, exist_ok=True)
        model = {
            "slug": MODEL,
            "display_name": "DeepSeek V4 Flash",
            "description": "on this machine",
            "default_reasoning_level": "high",
            "supported_reasoning_levels": [
                {"effort": "low", "description": "thinks less"},
                {"effort": "high", "description": "thinks more"},
            ],
            "shell_type": "unified_exec",
            "visibility": "list",
            "supported_in_api": True,
            "priority": 1,
            "base_instructions": "You are a coding agent. Use the tools to do what the user asks.",
            "apply_patch_tool_type": "freeform",
            "support_verbosity": False,
            "supports_reasoning_summaries": True,
            "default_reasoning_summary": "none",
            "truncation_policy": {"mode": "tokens", "limit": 10000},
            "context_window": self.context,
            "supports_parallel_tool_calls": True,
            "experimental_supported_tools": [],
            "input_modalities": ["text"],
        }
        (folder / "models.json").write_text(json.dumps({"models": [model]}, indent=1), encoding="utf-8")
        (folder / "config.toml").write_text(
            f"""\
model = "{MODEL}"
model_provider = "ds4-mlx"
model_catalog_json = "{folder / "models.json"}"
approval_policy = "never"
sandbox_mode = "danger-full-access"
web_search = "disabled"
check_for_update_on_startup = false
[analytics]
enabled = false
[agents]
enabled = false
[features]
goals = false
apps = false
plugins = false
[model_providers.ds4-mlx]
name = "ds4-mlx"
base_url = "{self.url}/v1"
wire_api = "responses"
""",
            encoding="utf-8",
        )
        return {}

    def arguments(self, prompt: str, turn: int) -> list[str]:
        options = ["--skip-git-repo-check", "--json"]
        return ["exec", *(["resume", "--last"] if turn == 2 else []), *options, prompt]

    def heard(self, events: list[dict[str, Any]]) -> Heard:
        ran, text, counts = [], "", {}
        for event in events:
            item = event.get("item", {})
            if event.get("type") == "item.completed" and item.get("type") in ("command_execution", "file_change"):
                ran.append(item["type"] + ("" if item.get("status") == "completed" else f" ({item.get('status')})"))
            elif event.get("type") == "item.completed" and item.get("type") == "agent_message":
                text = item["text"]
            elif event.get("type") == "turn.completed":
                counts = event["usage"]
            elif event.get("type") in ("error", "turn.failed"):
                text = f"ERROR: {event}"
        wanted = ("input_tokens", "cached_input_tokens", "output_tokens")
        return Heard(text, ran, {name: counts.get(name) for name in wanted})


class Opencode(Program):
    """Speaks /v1/chat/completions (and the two others, with other packages of the ai-sdk)."""

    binary, name, package = "opencode", "opencode", "opencode-ai"
    npm = "@ai-sdk/openai-compatible"

    def set_up(self) -> dict[str, str]:
        folder = self.home / ".config" / "opencode"
        folder.mkdir(parents=True, exist_ok=True)
        limit = {"context": self.context, "output": self.output}
        model = {"name": "DeepSeek V4 Flash", "reasoning": True, "tool_call": True, "limit": limit}
        provider = {
            "npm": self.npm,
            "name": "ds4-mlx",
            "options": {"baseURL": f"{self.url}/v1", "apiKey": "any"},
            "models": {MODEL: model},
        }
        config = {
            "$schema": "https://opencode.ai/config.json",
            "model": f"ds4-mlx/{MODEL}",
            "small_model": f"ds4-mlx/{MODEL}",
            "autoupdate": False,
            "share": "disabled",
            "provider": {"ds4-mlx": provider},
        }
        (folder / "opencode.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        switches = ("MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")
        return {f"OPENCODE_DISABLE_{switch}": "1" for switch in switches}

    def arguments(self, prompt: str, turn: int) -> list[str]:
        return ["run", "--format", "json", *(["--continue"] if turn == 2 else []), prompt]

    def heard(self, events: list[dict[str, Any]]) -> Heard:
        ran, text, counts = [], "", {"input": 0, "cached": 0, "output": 0}
        for event in events:
            part = event.get("part", {})
            if event.get("type") == "tool_use":
                status = part.get("state", {}).get("status")
                ran.append(part.get("tool", "?") + ("" if status == "completed" else f" ({status})"))
            elif event.get("type") == "text":
                text = part.get("text", "")
            elif event.get("type") == "step_finish":
                tokens = part.get("tokens", {})
                counts["input"] += tokens.get("input", 0)
                counts["cached"] += tokens.get("cache", {}).get("read", 0)
                counts["output"] += tokens.get("output", 0)
            elif event.get("type") == "error":
                text = f"ERROR: {event.get('error')}"
        return Heard(text, ran, counts)


class OpencodeAnthropic(Opencode):
    """opencode over /v1/messages."""

    name, npm = "opencode (ai-sdk/anthropic)", "@ai-sdk/anthropic"


class OpencodeResponses(Opencode):
    """opencode over /v1/responses."""

    name, npm = "opencode (ai-sdk/openai)", "@ai-sdk/openai"


PROGRAMS: dict[str, type[Program]] = {
    "claude": ClaudeCode,
    "codex": Codex,
    "opencode": Opencode,
    "opencode-anthropic": OpencodeAnthropic,
    "opencode-responses": OpencodeResponses,
}
