"""The command line: `main` runs a command, `files` reads its models and data, `demo` shows what it can do."""
