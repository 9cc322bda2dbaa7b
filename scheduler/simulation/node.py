"""SimulatedNode: an OpenAI-like engine that runs no model, counts everything and misbehaves on command."""

import sys
import traceback
from contextlib import suppress
from functools import partial

import gevent
from gevent import socket
from gevent.pool import Group

from scheduler.simulation.answers import Answers
from scheduler.simulation.connection import Connection, PeerGone
from scheduler.simulation.control import Control
from scheduler.simulation.faults import FaultList, Hits
from scheduler.simulation.gate import Gate
from scheduler.simulation.http_request import BadRequest, Request
from scheduler.simulation.journal import Journal
from scheduler.simulation.listener import Listener
from scheduler.simulation.peer_watch import PeerWatch
from scheduler.simulation.probes import Probes
from scheduler.simulation.reply import Reply
from scheduler.simulation.reply_writer import CutShort, ReplyWriter, status_reply, suffer
from scheduler.simulation.settings import SimulationSettings


class SimulatedNode:
    """Serves between `start` and `stop`. Needs a gevent hub, and works in patched and unpatched processes alike."""

    def __init__(self, settings: SimulationSettings) -> None:
        self.journal = Journal(settings.slots)
        self.faults = FaultList()
        self.gate = Gate()
        self._answers = Answers(settings)
        self._probes = Probes(settings)
        self._control = Control(self.journal, self.faults, self.gate, self)
        self._watch = PeerWatch()
        self._greenlets = Group()
        self._connections: set[Connection] = set()
        spawn = self._greenlets.spawn
        self._listener = Listener(settings.host, settings.port, partial(self._serve, is_control=False), spawn)
        self._control_listener: Listener | None = None
        if settings.control_port is not None:
            serve_control = partial(self._serve, is_control=True)
            self._control_listener = Listener(settings.host, settings.control_port, serve_control, spawn)

    def __repr__(self) -> str:
        return f"<SimulatedNode {self._listener!r} {self.journal!r} {self.gate!r} {self.faults!r}>"

    @property
    def port(self) -> int:
        """Where inference requests go."""
        return self._listener.port

    @property
    def control_port(self) -> int | None:
        """Where /sim/* is answered also while the other port refuses."""
        return self._control_listener.port if self._control_listener else None

    def start(self) -> None:
        """Listen. Raises OSError where a port is taken."""
        self._listener.open()
        if self._control_listener is not None:
            self._control_listener.open()

    def stop(self) -> None:
        """Close the listeners and cut every connection. Idempotent."""
        self._listener.close()
        if self._control_listener is not None:
            self._control_listener.close()
        self._greenlets.kill()
        self._watch.close()

    def listen(self, *, is_open: bool, reset_connections: bool) -> None:
        """Take new connections or refuse them, and cut those that exist where asked to."""
        if is_open:
            self._listener.open()
        else:
            self._listener.refuse()
        for connection in list(self._connections) if reset_connections else ():
            connection.abort()

    # -- one connection ---------------------------------------------------------------------------

    def _serve(self, sock: socket.socket, address: object, *, is_control: bool) -> None:
        connection = Connection(sock, self._watch)
        visit = _Visit(is_counted=not is_control)
        if not is_control:
            self.journal.connection_opened()
            self._connections.add(connection)
        reset = False
        try:
            for fault in () if is_control else self.faults.take("accept"):
                suffer(connection, fault)
            while self._serve_one(connection, visit, is_control):
                pass
        except CutShort as cut:
            reset = cut.reset
        except BadRequest as error:
            self._refuse(connection, error)
        except (PeerGone, OSError):
            pass
        except Exception:
            # A mistake of the simulator: the peer finds its connection closed, the developer finds the traceback.
            traceback.print_exc(file=sys.stderr)
        finally:
            self._connections.discard(connection)
            connection.close(reset=reset)
            if visit.is_counted:
                self.journal.connection_closed()

    def _serve_one(self, connection: Connection, visit: "_Visit", is_control: bool) -> bool:
        request = connection.read_head()
        if request is None:
            return False
        if is_control or self._control.is_control(request):
            if visit.is_counted:
                visit.is_counted = False
                self.journal.connection_was_for_control()
            connection.read_body(request)
            return self._write(connection, request, self._control.answer(request), Hits())
        return self._serve_engine(connection, request)

    def _serve_engine(self, connection: Connection, request: Request) -> bool:
        for fault in self.faults.take("head", request):
            if fault.kind == "early_status":
                self._answer_early(connection, status_reply(fault), fault["linger_ms"])
                return False
            suffer(connection, fault)
        try:
            connection.read_body(request)
        except (PeerGone, OSError):
            self.journal.count("incomplete")
            raise
        if self._answers.is_inference(request):
            return self._infer(connection, request)
        if not self._probes.is_probe(request):
            return self._write(connection, request, Reply.of_json({"detail": "Method Not Allowed"}, 405), Hits())
        self.journal.count("probes")
        hits = self.faults.take("probe", request)
        hits += self.faults.take("request", request)
        if slow := hits.of("slow_probe"):
            connection.wait(slow["ms"] / 1000)
        return self._write(connection, request, self._probes.answer(request), hits)

    def _infer(self, connection: Connection, request: Request) -> bool:
        # Whoever left before this request came is not counted beside it.
        self._watch.look()
        gevent.sleep(0)
        if connection.has_left:
            self.journal.count("incomplete")
            raise PeerGone
        arrival = self.journal.arrive(request)
        hits = self.faults.take("request", request)
        writer = ReplyWriter(connection, hits, request.wants_keep_alive, request.version)
        # Whatever else happens in there (a mistake, the end of the process) is no answer either.
        outcome = "broken"
        try:
            with connection.working():
                self.gate.pass_through()
                reply = self._answer(request, arrival.n)
                reply.headers.append(("x-sim-body-sha256", request.sha256))
                writer.write(reply)
            outcome = "served"
        except (PeerGone, OSError):
            outcome = "broken" if connection.was_cut else "aborted"
            raise
        finally:
            self.journal.finish(arrival, outcome, writer.status)
        writer.afterwards()
        return writer.keeps_connection

    def _answer(self, request: Request, n: int) -> Reply:
        try:
            return self._answers.answer(request, n)
        except (BadRequest, AttributeError, TypeError, ValueError) as error:
            return Reply.of_error(400, str(error))

    def _write(self, connection: Connection, request: Request, reply: Reply, hits: Hits) -> bool:
        if request.method == "POST":
            reply.headers.append(("x-sim-body-sha256", request.sha256))
        writer = ReplyWriter(connection, hits, request.wants_keep_alive, request.version)
        with connection.working():
            writer.write(reply, is_head=request.method == "HEAD")
        writer.afterwards()
        return writer.keeps_connection

    def _answer_early(self, connection: Connection, reply: Reply, linger_ms: float) -> None:
        with connection.working():
            ReplyWriter(connection, Hits(), keep_alive=False).write(reply)
            connection.end()
            # Closing with unread bytes would send RST, which may overtake the answer.
            gevent.sleep(linger_ms / 1000)

    def _refuse(self, connection: Connection, error: BadRequest) -> None:
        self.journal.count("bad_requests")
        with suppress(PeerGone, OSError):
            self._answer_early(connection, Reply.of_error(400, str(error)), 0)


class _Visit:
    """Whether a connection counts: those that carry /sim/* do not."""

    def __init__(self, is_counted: bool) -> None:
        self.is_counted = is_counted
