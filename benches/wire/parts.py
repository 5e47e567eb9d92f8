"""What the measurements over the wire have in common: servers, questions and answers."""

import argparse
import glob
import json
import os
import re
import secrets
import shutil
import signal
import socket
import statistics
import string
import subprocess
import sys
import threading
import time
import zlib
from collections import namedtuple
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AUTHORIZE = "/latchkey.v1.AuthorizationService/Authorize"
CHECK = "/envoy.service.auth.v3.Authorization/Check"
HEADERS = ["content-type: application/grpc", "te: trailers"]
CONNECTIONS = 4
STREAMS = 32
THREADS = 2  # of nghttpd and of latchkey; tokio's default is one for each core
START_SECONDS_MAX = 20
SETTLE_SECONDS = 0.3  # what stood still goes on as it always does
RUN_SECONDS_MAX = 120
ALLOWED, UNKNOWN_KEY, INSUFFICIENT_SCOPE = 1, 4, 11  # DecisionReason
ROOT_TOKEN = "hm_live_0000000000000000000000000000002dlYSp"  # of a store that goes with the measurement
WITHOUT_NOTICE = signal.SIGINT  # latchkey then ends without waiting for a balancer to notice
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Wrong(Exception):
    """Something that is measured does not do what it should."""


# Requests a second, the microseconds of the servers' CPU that one took, and the share of a core of those beside them.
Figures = namedtuple("Figures", "rate cpu beside")


# --- The command ------------------------------------------------------------------------------


def parser(told, rounds, requests):
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--requests", type=int, default=requests, help="of each case in each round")
    parser.add_argument("--short", action="store_true", help="four rounds of a quarter of the requests")
    parser.add_argument("--binaries", type=Path, help="measure what is in this folder, build nothing")
    return parser


def read(parser):
    options = parser.parse_args()
    if options.short:
        options.rounds, options.requests = 4, options.requests // 4
    return options


def command(main, tools):
    """Runs `main`, and says what is missing or wrong."""
    # Where Debian has nghttpd and PostgreSQL's own programs, and where `./check` puts what it installs.
    postgres = glob.glob("/usr/lib/postgresql/*/bin")
    os.environ["PATH"] += ":".join(["", "/usr/sbin", *postgres, f"{ROOT}/target/tools/bin"])
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        sys.exit(f"missing: {', '.join(missing)} (`./check` installs all that is needed)")
    try:
        main()
    except (Wrong, subprocess.CalledProcessError) as error:
        sys.exit(f"FAILED: {error}")


# --- What is measured -------------------------------------------------------------------------


class Case:
    """What is asked, what comes back, and the servers that share the work of it.

    One that rests stands still while others are measured: what it does unasked is to fall on none but itself. Those
    beside it have work because of it, which is told apart.
    """

    def __init__(self, name, url, body, answer, servers, headers=HEADERS, rests=False, beside=()):
        self.name, self.url, self.body, self.answer = name, url, body, answer
        self.servers, self.headers, self.rests, self.beside = servers, headers, rests, beside
        if rests:
            self.signal(signal.SIGSTOP)

    def cpu_seconds(self):
        return sum(server.cpu_seconds() for server in self.servers)

    def cpu_seconds_beside(self):
        return sum(server.cpu_seconds() for server in self.beside)

    @contextmanager
    def at_work(self):
        if not self.rests:
            yield
            return
        self.signal(signal.SIGCONT)
        # It has to find out first what it has missed, and says meanwhile that it may be out of date.
        wait(lambda: ask(self.url, self.body, self.headers) == self.answer, f"{self.name} to be up to date")
        time.sleep(SETTLE_SECONDS)
        yield
        self.signal(signal.SIGSTOP)

    def signal(self, number):
        for server in self.servers:
            server.process.send_signal(number)


def build(folder):
    if folder is None:
        command = "cargo build --locked --profile dist --bin latchkey --example empty_tonic"
        subprocess.run(command.split(), cwd=ROOT, check=True)
        target = os.environ.get("CARGO_TARGET_DIR", "target")
        folder = (ROOT / target / "dist").resolve()
    beside = folder / "empty_tonic"
    return folder / "latchkey", beside if beside.exists() else folder / "examples" / "empty_tonic"


def start_latchkey(name, binary, folder, servers, more=None):
    """One with the embedded store, and the token of its live key."""
    port = free_port()
    command = [binary, "serve", "--dev", "--dev-dir", folder / name]
    server = servers.start(name, command, port, folder, of_latchkey(port) | (more or {}), end=WITHOUT_NOTICE)
    # The demo's keys are printed once it listens.
    token = wait(lambda: re.search(r"live key +(\S+)", server.printed()), "latchkey's keys")
    return server, token.group(1)


def start_node(name, binary, folder, postgres, redis, servers):
    """One of many nodes, and the token of a key like the one above."""
    port = free_port()
    settings = {
        "LATCHKEY__STORE__URL": f"postgres://latchkey@127.0.0.1:{postgres.port}/postgres",
        "LATCHKEY__REDIS__URL": f"redis://127.0.0.1:{redis.port}",
        "LATCHKEY__ROOT_TOKEN": ROOT_TOKEN,
    }
    server = servers.start(name, [binary, "serve"], port, folder, of_latchkey(port) | settings, end=WITHOUT_NOTICE)
    operator = clean_environment() | {"LATCHKEY_ADDRESS": f"http://127.0.0.1:{port}", "LATCHKEY_TOKEN": ROOT_TOKEN}
    wait(lambda: subprocess.run([binary, "health"], env=operator, capture_output=True).returncode == 0, f"{name} to serve")
    run([binary, *"account create demo --name Demo --plan developer".split()], env=operator)
    new = "key create --account demo --name live --environment live --scope memory:readonly --output json"
    return server, json.loads(run([binary, *new.split()], env=operator))["token"]


def of_latchkey(port):
    return {
        "LATCHKEY__GRPC__LISTEN": f"127.0.0.1:{port}",
        "LATCHKEY__HTTP__LISTEN": "off",
        "LATCHKEY__OPERATIONS__LISTEN": "off",
        "LATCHKEY__SERVE__THREADS": str(THREADS),
    }


def start_postgres(folder, servers):
    """A new database of the user `latchkey`. It does not run as root; then it is given to the user `postgres`."""
    data, port = folder / "postgres", free_port()
    data.mkdir(mode=0o700)
    become = []
    if os.geteuid() == 0:
        folder.chmod(0o711)
        shutil.chown(data, "postgres", "postgres")
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    run([*become, *"initdb --username=latchkey --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync".split(), data], cwd="/")
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
    command = [*become, "postgres", "-D", data]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    server = servers.start("PostgreSQL", command, port, folder, end=signal.SIGINT)  # which waits for no client
    ready = ["pg_isready", "--quiet", "--host=127.0.0.1", f"--port={port}"]
    wait(lambda: subprocess.run(ready).returncode == 0, "PostgreSQL to be ready")
    return server


def start_redis(folder, servers):
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", folder]
    return servers.start("Redis", command, port, folder)


def start_empty(binary, folder, method, answer, servers):
    message, port = folder / f"answer-to-{method}", free_port()
    message.write_bytes(unframed(answer))
    return servers.start("empty", [binary, f"127.0.0.1:{port}", method, message], port, folder)


def start_nghttpd(folder, files, servers):
    """Files by their paths, whatever the method, with the header and the trailer that gRPC has."""
    htdocs, types, port = folder / "htdocs", folder / "mime.types", free_port()
    for path, content in files.items():
        (htdocs / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (htdocs / path[1:]).write_bytes(content)
    types.write_text("application/grpc grpc\n")
    command = ["nghttpd", "--no-tls", "--address=127.0.0.1", f"--workers={THREADS}"]
    command += [f"--max-concurrent-streams={8 * STREAMS}", "--no-content-length"]
    command += ["--trailer=grpc-status: 0", f"--mime-types-file={types}"]
    return servers.start("nghttpd", [*command, f"--htdocs={htdocs}", str(port)], port, folder)


def measure(cases, rounds, requests):
    """One result for each case in each round; the round before the first is thrown away."""
    results = []
    for number in range(rounds + 1):
        turn = number % len(cases)
        results.append({case.name: load(case, requests) for case in cases[turn:] + cases[:turn]})
        if sys.stderr.isatty():
            print(f"\rround {number} of {rounds}", end="\n" if number == rounds else "", file=sys.stderr)
    return results[1:]


def load(case, requests):
    command = ["h2load", "-n", requests, "-c", CONNECTIONS, "-m", STREAMS, "-t", 1, *of_request(case.body, case.headers)]
    with case.at_work():
        before = case.cpu_seconds(), case.cpu_seconds_beside(), time.monotonic()
        done = run([*command, case.url])
        after = case.cpu_seconds(), case.cpu_seconds_beside(), time.monotonic()
    cpu, beside, seconds = (end - start for start, end in zip(before, after))
    check_load(case, requests, done)
    return Figures(float(find(r"([\d.]+) req/s", done)), cpu / requests * 1e6, beside / seconds)


def check_load(case, requests, done):
    """Every request was answered, and with as many bytes as the answer looked at before."""
    succeeded = int(find(r"(\d+) succeeded", done)), int(find(r"(\d+) 2xx", done))
    data = int(find(r"\((\d+)\) data", done))
    if succeeded != (requests, requests) or data != requests * len(case.answer):
        raise Wrong(f"{case.name}: not every answer was right\n{done}")


# --- What is told -----------------------------------------------------------------------------


def report(cases, rounds, options):
    print(f"{options.rounds} rounds of {options.requests:,} requests, {CONNECTIONS} connections,"
          f" {STREAMS} streams each; median (min to max)\n")
    print(f"{'':20}{'requests/s':>28}{'CPU us/request':>28}")
    for case in cases:
        rates, times, beside = zip(*(result[case.name] for result in rounds))
        print(f"{case.name:20}{spread(rates, '.0f'):>28}{spread(times, '.2f'):>28}")
        if case.beside:
            names = " and ".join(server.name for server in case.beside)
            shares = spread([100 * share for share in beside], '.1f')
            print(f"  beside it, {names} used {shares} % of a core")


def report_ratios(rounds, compared):
    print(f"\n{'ratio of medians (of single rounds)':38}{'requests/s':>24}{'CPU':>24}")
    for one, other in compared:
        if not {one, other} <= rounds[0].keys():
            continue
        ratios = "".join(f"{ratio(rounds, one, other, figure):>24}" for figure in (0, 1))
        print(f"{one + ' / ' + other:38}{ratios}")


def ratio(rounds, one, other, figure):
    pairs = [(result[one][figure], result[other][figure]) for result in rounds]
    if not all(second for _, second in pairs):
        return "too short"
    single = [first / second for first, second in pairs]
    return f"{ratio_of_medians(pairs):.3f} ({min(single):.2f} to {max(single):.2f})"


def ratio_of_medians(pairs):
    firsts, seconds = zip(*pairs)
    return statistics.median(firsts) / statistics.median(seconds)


def demand_least(rounds, one, other, least):
    """Requests a second of the one, by those of the other."""
    got = ratio_of_medians([(result[one][0], result[other][0]) for result in rounds])
    if got < least:
        raise Wrong(f"{one} / {other} is {got:.3f}, and has to be {least} at least")


def spread(values, form):
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


# --- Questions and answers --------------------------------------------------------------------


def request(token, scope):
    """AuthorizeRequest: token = 1, required_scope = 2; both shorter than 128 bytes."""
    fields = [(1, token.encode()), (2, scope.encode())]
    return b"".join(bytes([number << 3 | 2, len(text)]) + text for number, text in fields)


def check_request(token, scope):
    """CheckRequest as Envoy 1.40 sends it: the headers as text, and a route that names a scope."""
    http = field(1, b"15956005262619742021") + field(2, b"GET")
    http += b"".join(field(3, pair(name, value)) for name, value in twenty_headers(token))
    http += field(4, b"/v1/items?page=2") + field(5, b"api.example.com") + field(6, b"https")
    http += field(10, b"HTTP/2")
    source = field(1, field(1, field(2, b"192.0.2.7")))
    return field(1, field(1, source) + field(4, field(2, http)) + field(10, pair("required_scope", scope)))


def twenty_headers(token):
    known = [("authorization", f"Bearer {token}"), ("accept", "*/*"), ("user-agent", "curl/8.5.0")]
    return known + [(f"x-some-header-{number}", "a value of the usual length, or so") for number in range(17)]


def pair(name, value):
    return field(1, name.encode()) + field(2, value.encode())


def field(number, content):
    length, prefix = len(content), bytes([number << 3 | 2])
    while length >= 0x80:
        prefix += bytes([length & 0x7F | 0x80])
        length >>= 7
    return prefix + bytes([length]) + content


def framed(message):
    return b"\0" + len(message).to_bytes(4, "big") + message


def unframed(answer):
    if len(answer) < 5 or answer[0] != 0 or int.from_bytes(answer[1:5], "big") != len(answer) - 5:
        raise Wrong(f"not one gRPC message: {answer!r}")
    return answer[5:]


def decision(message):
    """AuthorizeResponse: allowed = 1, reason = 2, http_status = 3, before all else."""
    found, at = {}, 0
    while at < len(message) and message[at] in (1 << 3, 2 << 3, 3 << 3):
        number, value, shift = message[at] >> 3, 0, 0
        while True:
            at += 1
            value |= (message[at] & 0x7F) << shift
            shift += 7
            if message[at] < 0x80:
                break
        at += 1
        found[number] = value
    return tuple(found.get(number, 0) for number in (1, 2, 3))


def unknown_token():
    """Well formed, and nobody's."""
    head = "hm_live_" + "".join(secrets.choice(BASE62) for _ in range(30))
    rest, digits = zlib.crc32(head.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        digits = BASE62[digit] + digits
    return head + digits


def ask(url, body=None, headers=HEADERS):
    """The body of one answer."""
    return run(["nghttp", *of_request(body, headers), url], text=False)


def of_request(body, headers):
    options = ["--data", body] if body else []
    return options + [option for header in headers for option in ("-H", header)]


# --- Processes --------------------------------------------------------------------------------


class Server:
    def __init__(self, name, process, port, log, end):
        self.name, self.process, self.port, self.log, self.end = name, process, port, log, end

    def url(self, path=AUTHORIZE):
        return f"http://127.0.0.1:{self.port}{path}"

    def printed(self):
        return self.log.read_text(errors="replace")

    def cpu_seconds(self):
        """Of it and its children, also those that have ended."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return ticks(pid, 11, 15) + sum(ticks(child, 11, 13) for child in children)


def ticks(pid, first, last):
    """Of utime, stime, cutime and cstime, in seconds; nothing of what is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return 0
    return sum(map(int, stat.rpartition(")")[2].split()[first:last])) / TICKS_PER_SECOND


class Collector:
    """Takes every message of OTLP over HTTP, and counts them."""

    def __init__(self):
        received = self.received = {"/v1/traces": 0, "/v1/metrics": 0}

        class Taker(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                received[self.path] += 1
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()


class Servers:
    """The servers that were started; all of them are stopped at the end."""

    def __init__(self):
        self.running = []
        self.collector = Collector()

    def __enter__(self):
        return self

    def start(self, name, command, port, folder, settings=None, end=signal.SIGTERM):
        log = folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(word) for word in command],
                env=clean_environment() | (settings or {}),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        server = Server(name, process, port, log, end)
        self.running.append(server)
        wait(lambda: process.poll() is not None or listens(port), f"{name} to listen")
        if process.poll() is not None:
            raise Wrong(f"{name} ended at once\n{server.printed()}")
        return server

    def show_logs(self):
        for server in self.running:
            if not server.name.startswith("latchkey"):  # which prints its demo's tokens
                print(f"--- {server.name}\n{server.printed()}", file=sys.stderr)

    def __exit__(self, *_):
        for server in self.running:
            server.process.send_signal(server.end)
            server.process.send_signal(signal.SIGCONT)
        for server in self.running:
            try:
                server.process.wait(timeout=START_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()


def clean_environment():
    foreign = ("LATCHKEY_", "OTEL_")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)}


def run(command, text=True, **more):
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=text, timeout=RUN_SECONDS_MAX, **more)
    except subprocess.TimeoutExpired:
        raise Wrong(f"{words[0]} took longer than {RUN_SECONDS_MAX} s") from None
    if done.returncode != 0:
        raise Wrong(f"{words[0]} failed: {done.stderr}")
    return done.stdout


def find(pattern, text):
    found = re.search(pattern, text)
    if found is None:
        raise Wrong(f"no {pattern} in\n{text}")
    return found.group(1)


def wait(is_so, what):
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if found := is_so():
            return found
        time.sleep(0.05)
    raise Wrong(f"waited {START_SECONDS_MAX} s for {what}")


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
