"""A participant written in Python: unary Try, Confirm and Cancel, durable in SQLite. It holds balances without limit.

Usage: participant.py COORDINATOR PORT FILE
The messages come from the coordinator's reflection. Every change is committed (with fsync) before it is answered.
FILE.die, if it exists, holds the name of a method: the process then dies after that call is durable and before its answer.
"""

import os
import signal
import sqlite3
import sys
from concurrent import futures

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

RESERVED, CONFIRMED, CANCELED, TRY_AFTER_CANCEL, CONTRADICTION = 1, 2, 3, 5, 6
DEBIT = 1
SERVICE = "escrow.v1.ParticipantService"


class Participant:
    def __init__(self, file):
        self.file = file
        self.db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self.db.executescript("""
            PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL;
            CREATE TABLE IF NOT EXISTS branch (xid TEXT PRIMARY KEY, state INTEGER, legs TEXT);
            CREATE TABLE IF NOT EXISTS balance (account TEXT PRIMARY KEY, posted INTEGER);""")

    def Try(self, request, state, _):
        if state in (CANCELED, CONFIRMED):
            return (state, TRY_AFTER_CANCEL if state == CANCELED else RESERVED)
        if state is None:
            sign = lambda leg: -leg.amount if leg.direction == DEBIT else leg.amount
            legs = ";".join(f"{leg.account_id}={sign(leg)}" for leg in request.legs)
            self.db.execute("UPDATE branch SET legs = ? WHERE xid = ?", (legs, xid_of(request)))
        return (RESERVED, RESERVED)

    def Confirm(self, request, state, legs):
        if state in (None, CANCELED):
            return (state, CONTRADICTION)
        if state == RESERVED:
            for account, amount in (leg.rsplit("=", 1) for leg in legs.split(";")):
                self.db.execute("""INSERT INTO balance VALUES (?, ?)
                    ON CONFLICT (account) DO UPDATE SET posted = posted + excluded.posted""", (account, int(amount)))
        return (CONFIRMED, CONFIRMED)

    def Cancel(self, _request, state, _):
        return (state, CONTRADICTION) if state == CONFIRMED else (CANCELED, CANCELED)  # also if it was never tried

    def serve(self, method, request):
        xid = xid_of(request)
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("INSERT OR IGNORE INTO branch VALUES (?, NULL, '')", (xid,))
        state, legs = self.db.execute("SELECT state, legs FROM branch WHERE xid = ?", (xid,)).fetchone()
        state, answer = getattr(self, method)(request, state, legs)
        self.db.execute("UPDATE branch SET state = ? WHERE xid = ?", (state, xid))
        self.db.execute("COMMIT")
        die = self.file + ".die"
        if os.path.exists(die) and open(die).read().strip() == method:
            os.remove(die)
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


def xid_of(request):
    return f"{request.xid.partition}-{request.xid.epoch}-{request.xid.sequence}"


def main(coordinator, port, file):
    channel = grpc.insecure_channel(coordinator.removeprefix("http://"))
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    participant, handlers = Participant(file), {}
    for method in ("Try", "Confirm", "Cancel"):
        described = pool.FindServiceByName(SERVICE).FindMethodByName(method)
        request = message_factory.GetMessageClass(described.input_type)
        response = message_factory.GetMessageClass(described.output_type)
        handlers[method] = grpc.unary_unary_rpc_method_handler(
            lambda message, _, method=method, response=response: response(answer=participant.serve(method, message)),
            request_deserializer=request.FromString, response_serializer=response.SerializeToString)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))  # one at a time: no locks
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    if server.add_insecure_port(f"127.0.0.1:{port}") == 0:
        raise SystemExit(f"port {port} is in use")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
