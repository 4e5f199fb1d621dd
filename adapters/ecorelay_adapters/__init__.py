"""What stands beside an assistant: the tools, MCP over stdio, and the carriers that push."""
