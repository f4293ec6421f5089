"""The verbs of `tpool`: where each is, and its line in the help. Nothing of a verb is imported until it is said."""

from importlib import import_module
from typing import Any, NamedTuple


class Verb(NamedTuple):
    """One verb: its function lives in `trusted_pool.cli.<module>`."""

    module: str
    function: str
    summary: str


#: Verbs about jobs; also said as `tpool job <verb>`.
JOB_VERBS = {
    "run": Verb("run", "run", "Submit a project, follow its log, fetch its files."),
    "submit": Verb("submit", "submit", "Submit a project and print its job id."),
    "status": Verb("status", "status", "Say where a job is and why."),
    "wait": Verb("wait", "wait", "Wait until a job has ended."),
    "logs": Verb("logs", "logs", "Print what a job has printed; -f follows it."),
    "outputs": Verb("outputs", "outputs", "List the files that a job left."),
    "download": Verb("download", "download", "Fetch the files that a job left."),
    "cancel": Verb("cancel", "cancel", "Cancel a job."),
    "explain": Verb("explain", "explain", "Say why a job is where it is, or why it failed."),
    "history": Verb("history", "history", "Tell the whole story of a job."),
    "rerun": Verb("rerun", "rerun", "Run a job again, as a new job."),
    "priority": Verb("priority", "priority", "Give a waiting job another priority."),
    "list": Verb("jobs", "jobs", "List jobs, newest first."),
}
POOL_VERBS = {
    "jobs": JOB_VERBS["list"],
    "pool": Verb("pool", "pool", "Show the pool and its workers."),
    "usage": Verb("usage", "usage", "Show what you have of the pool, and may have."),
    "pause": Verb("pause", "pause", "Dispatch nothing until resumed."),
    "resume": Verb("pause", "resume", "Dispatch again."),
}
#: Said as `tpool workers <verb>`.
WORKER_VERBS = {
    "list": Verb("workers", "workers", "List the workers."),
    "cordon": Verb("workers", "cordon", "Give a worker no new jobs."),
    "uncordon": Verb("workers", "uncordon", "Give a worker jobs again."),
    "drain": Verb("workers", "drain", "Let a worker finish what it has."),
    "add": Verb("allowlist", "add", "List one more worker."),
    "remove": Verb("allowlist", "remove", "Take a worker off the list, at once."),
    "reload": Verb("allowlist", "reload", "Read the list again."),
}
#: Said as `tpool keys <verb>`.
KEY_VERBS = {
    "list": Verb("keys", "keys", "List the API keys."),
    "create": Verb("keys", "create", "Make an API key."),
    "revoke": Verb("keys", "revoke", "Let an API key open nothing any more."),
}
#: Said as `tpool audit <verb>`.
AUDIT_VERBS = {
    "list": Verb("audit", "audit", "List who did what."),
    "export": Verb("audit", "export", "Write the whole audit trail."),
    "verify": Verb("audit", "verify", "Check that nothing of an export was changed."),
}
#: Said as `tpool limits <verb>`.
LIMIT_VERBS = {
    "list": Verb("usage", "show", "List what owners may have."),
    "set": Verb("usage", "set_limits", "Set what one owner may have."),
}
GROUPS = {
    "job": JOB_VERBS,
    "workers": WORKER_VERBS,
    "keys": KEY_VERBS,
    "limits": LIMIT_VERBS,
    "audit": AUDIT_VERBS,
}
SERVER_VERBS = {
    "coordinator": Verb("coordinator", "coordinator", "Start a pool: take jobs and send them to workers."),
    "worker": Verb("worker", "worker", "Lend this machine to a pool."),
    "doctor": Verb("doctor", "doctor", "Find out how well this machine holds jobs."),
    "keygen": Verb("keygen", "keygen", "Make a worker's key."),
    "backup": Verb("backup", "backup", "Copy all that a coordinator keeps, while it serves."),
    "restore": Verb("restore", "restore", "Make a data directory from a backup."),
}
#: Verbs about oneself.
ACCOUNT_VERBS = {
    "login": Verb("login", "login", "Keep an API key for a pool."),
    "logout": Verb("login", "logout", "Forget a kept API key."),
    "whoami": Verb("whoami", "whoami", "Say whom the pool takes you for."),
}
#: As the help shows them.
SECTIONS = (
    ("Jobs", {name: verb for name, verb in JOB_VERBS.items() if name != "list"}),
    ("The pool", POOL_VERBS),
    ("You", ACCOUNT_VERBS),
    ("Machines", SERVER_VERBS),
)
ALL = {**JOB_VERBS, **POOL_VERBS, **ACCOUNT_VERBS, **SERVER_VERBS}


def load(verb: Verb) -> Any:
    """Return the verb's function, with Typer's annotations on its arguments."""
    return getattr(import_module(f"trusted_pool.cli.{verb.module}"), verb.function)


def top_help() -> str:
    """Write the help of `tpool` itself."""
    lines = [
        "tpool runs your code on machines you trust.",
        "",
        "Usage: tpool VERB [OPTIONS] [ARGUMENTS]      tpool VERB --help says more",
    ]
    for title, verbs in SECTIONS:
        lines += ["", f"{title}:"]
        lines += [f"  {name:<12} {verb.summary}" for name, verb in verbs.items()]
        if verbs is POOL_VERBS:
            lines += [
                f"  {group:<12} {', '.join(GROUPS[group])}: tpool {group} VERB" for group in GROUPS if group != "job"
            ]
    lines += [
        "",
        "  tpool job VERB … says the verbs about jobs too. A job is named by its id, the",
        "  beginning of its id, or `last` for the one submitted last from here.",
        "",
        "Environment:",
        "  TRUSTED_POOL_ADDR    the pool (that of `tpool login`, or http://127.0.0.1:9000)",
        "  TRUSTED_POOL_TOKEN   an API key (that of `tpool login`)",
        "  TRUSTED_POOL_CACERT  PEM file of the authority that signed the pool's certificate",
        "  TRUSTED_POOL_INSECURE_HTTP  1: an API key may go over plain HTTP to another machine",
        "  TRUSTED_POOL_OUTPUT  where `run` and `download` put files (tpool-outputs/JOB)",
        "  NO_COLOR             no colours",
        "",
        "Exit codes: 0 ok, 1 the job failed, 2 wrong use, 3 rejected or unplaceable, 124 timeout,",
        "  125 pool or network, 130 interrupted; --propagate-exit passes the job's own.",
    ]
    return "\n".join(lines)
