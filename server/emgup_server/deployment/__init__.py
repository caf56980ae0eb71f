"""The deployed server: a folder with its keys, a SuperLink behind TLS, and a ServerApp that asks every client."""
