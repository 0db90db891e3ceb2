"""Fifty agents that need to know something about Python, with the documents that answer them.

The answers are what a person would point at. They are used only to say how often registration
found them, never to find them; an answer that this machine doesn't have doesn't count.
"""

from __future__ import annotations

from contex_server.cli.demo.corpus import AgentPlan, Need


def _need(text: str, *modules: str) -> Need:
    """A need and its answers: modules by name, distributions as "package/name"."""
    keys = (name if name.startswith("package/") else f"stdlib/{name}" for name in modules)
    return Need(text, frozenset(keys))


_NEEDS = {
    "archivist": (
        _need("read and write zip archives", "zipfile"),
        _need("unpack tar files", "tarfile"),
    ),
    "compressor": (
        _need("compress data with gzip or zlib", "gzip", "zlib"),
        _need("bzip2 and xz compression", "bz2", "lzma"),
    ),
    "tls-gateway": (
        _need("talk TLS", "ssl"),
        _need("use the certificates that the operating system trusts", "package/truststore"),
    ),
    "calendar-keeper": (
        _need("parse dates with time zones", "datetime", "zoneinfo"),
        _need("print a calendar of a month", "calendar"),
    ),
    "web-fetcher": (
        _need("download a web page over HTTP", "urllib.request", "http.client", "package/httpx2"),
        _need("split a URL into its parts", "urllib.parse"),
        _need("may a crawler visit this page, says robots.txt", "urllib.robotparser"),
    ),
    "web-host": (
        _need("serve web pages from a small HTTP server", "http.server", "wsgiref.simple_server"),
        _need("handle cookies of browsers", "http.cookies", "http.cookiejar"),
    ),
    "html-reader": (
        _need("parse HTML", "html.parser"),
        _need("escape special characters for a web page", "html", "html.entities"),
    ),
    "xml-reader": (
        _need("parse XML documents into a tree", "xml.etree.ElementTree", "xml.dom.minidom"),
    ),
    "json-clerk": (
        _need("encode and decode JSON", "json", "json.encoder", "json.decoder"),
        _need("the fastest JSON library", "package/orjson"),
    ),
    "config-loader": (
        _need("read TOML files", "tomllib"),
        _need("read INI configuration files", "configparser", "package/iniconfig"),
        _need("YAML parsing", "package/pyyaml"),
    ),
    "spreadsheet-clerk": (_need("import rows from comma separated files", "csv"),),
    "mail-writer": (
        _need("compose e-mail messages with attachments", "email.message", "email.mime.multipart"),
        _need("send mail through an SMTP server", "smtplib"),
    ),
    "mail-reader": (
        _need("fetch messages from a mailbox over IMAP or POP", "imaplib", "poplib"),
        _need("read mbox and Maildir folders", "mailbox"),
    ),
    "file-mover": (
        _need("copy and move files and whole directories", "shutil"),
        _need("find files by a wildcard pattern", "glob", "fnmatch"),
    ),
    "path-finder": (_need("join and normalise file system paths", "pathlib", "posixpath"),),
    "scratch-pad": (_need("create temporary files and directories", "tempfile"),),
    "file-comparer": (
        _need("compare two directories", "filecmp"),
        _need("show the differences between two texts", "difflib"),
    ),
    "pattern-matcher": (
        _need("search text with regular expressions", "re"),
        _need("match paths as gitignore does", "package/pathspec"),
    ),
    "typesetter": (
        _need("wrap a long paragraph to a given width", "textwrap"),
        _need("colourful tables and progress bars in a terminal", "package/rich", "package/tqdm"),
    ),
    "translator": (
        _need("translate the messages of a program", "gettext"),
        _need("format numbers and money as the user's country does", "locale"),
    ),
    "linguist": (
        _need("properties of Unicode characters", "unicodedata"),
        _need("international domain names", "package/idna"),
    ),
    "command-liner": (
        _need("parse command line arguments", "argparse", "optparse", "getopt", "package/typer"),
        _need("ask for a password without echo", "getpass"),
    ),
    "shell-runner": (
        _need("run another program and read its output", "subprocess"),
        _need("split a shell command into words", "shlex"),
    ),
    "scheduler": (_need("run a function at a later time", "sched"),),
    "event-loop": (
        _need("asynchronous tasks and coroutines", "asyncio", "asyncio.tasks", "package/anyio"),
        _need("wait until one of many sockets is readable", "select", "selectors"),
    ),
    "thread-herder": (
        _need("threads, locks and semaphores", "threading"),
        _need("a queue shared by several threads", "queue"),
        _need("a pool of worker processes", "concurrent.futures.process", "multiprocessing"),
    ),
    "socket-plumber": (
        _need("open a TCP connection", "socket"),
        _need("work with IP addresses and networks", "ipaddress"),
    ),
    "file-server": (_need("transfer files over FTP", "ftplib"),),
    "remote-caller": (
        _need("remote procedure calls over HTTP/2", "package/grpcio"),
        _need("call methods over XML-RPC", "xmlrpc.client", "xmlrpc.server"),
    ),
    "schema-keeper": (
        _need("serialise messages with protocol buffers", "package/protobuf"),
        _need("validate data by type hints", "package/pydantic"),
    ),
    "cryptographer": (
        _need("SHA-256 hashes and digests", "hashlib"),
        _need("authenticate a message with a secret key", "hmac"),
        _need("random numbers that nobody can guess", "secrets"),
    ),
    "identity-maker": (_need("generate unique identifiers", "uuid"),),
    "encoder": (
        _need("base64 encoding of binary data", "base64", "binascii"),
        _need("pack integers into bytes in network order", "struct"),
    ),
    "pickler": (
        _need("save Python objects to disk and load them again", "pickle", "shelve", "marshal"),
    ),
    "database-clerk": (
        _need("SQL database in a single file", "sqlite3"),
        _need("client of a Redis key-value store", "package/redis", "package/valkey"),
    ),
    "statistician": (
        _need("mean, median and standard deviation", "statistics"),
        _need("draw random samples", "random"),
    ),
    "mathematician": (
        _need("trigonometric functions and logarithms", "math"),
        _need("functions of complex numbers", "cmath"),
        _need("exact fractions", "fractions"),
    ),
    "accountant": (_need("decimal arithmetic for money, without rounding errors", "decimal"),),
    "array-cruncher": (
        _need("numerical computing with multi-dimensional arrays", "package/numpy"),
        _need("compact arrays of numbers of one type", "array"),
    ),
    "similarity-searcher": (
        _need("nearest neighbour search among vectors", "package/faiss-cpu"),
        _need("run a neural network model", "package/onnxruntime"),
        _need("split text into tokens for a language model", "package/tokenizers"),
    ),
    "structurer": (
        _need("containers such as deque, counter and ordered dictionary", "collections"),
        _need("a priority queue on a heap", "heapq"),
        _need("insert into a sorted list by binary search", "bisect", "package/sortedcontainers"),
    ),
    "iterator": (
        _need("combinations and permutations", "itertools"),
        _need("cache the results of a function", "functools", "package/cachetools"),
    ),
    "class-designer": (
        _need("classes that only hold data", "dataclasses"),
        _need("enumerations of named constants", "enum"),
        _need("abstract base classes", "abc", "collections.abc"),
    ),
    "type-checker": (
        _need("check static types before running a program", "package/mypy"),
        _need("type hints", "typing", "package/typing-extensions"),
    ),
    "tester": (
        _need("write unit tests", "unittest", "package/pytest", "unittest.case"),
        _need("find bugs by generated test input", "package/hypothesis"),
        _need("run the examples in docstrings as tests", "doctest"),
    ),
    "debugger": (
        _need("step through a program and set breakpoints", "pdb", "bdb"),
        _need("print the stack trace of an exception", "traceback"),
    ),
    "profiler": (
        _need("measure how long a piece of code takes", "timeit", "cProfile", "profile"),
        _need("find out what allocates memory", "tracemalloc"),
    ),
    "code-reader": (
        _need("parse Python source into a syntax tree", "ast"),
        _need("disassemble bytecode", "dis"),
        _need("lint and format Python code", "package/ruff"),
    ),
    "watcher": (
        _need("write log messages to files", "logging", "logging.handlers"),
        _need("CPU and memory usage of processes", "package/psutil", "resource"),
        _need("react to signals of the operating system", "signal"),
    ),
    "sound-engineer": (_need("read and write WAV audio files", "wave"),),
}

AGENTS = tuple(AgentPlan(name, needs) for name, needs in _NEEDS.items())
