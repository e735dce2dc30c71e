"""The server: OpenAI and Anthropic APIs in front of one engine."""
