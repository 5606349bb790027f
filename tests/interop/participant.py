"""A participant in Python: unary Try, Confirm, Cancel, committed to SQLite before each answer. Its accounts have no limit.

Usage: participant.py COORDINATOR PORT FILE   (FILE.die names a method: die when it is durable, before its answer)
"""
import os, signal, sqlite3, sys
from concurrent import futures

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE, DEBIT = "escrow.v1.ParticipantService", 1
RESERVED, CONFIRMED, CANCELED, TRY_AFTER_CANCEL, CONTRADICTION = 1, 2, 3, 5, 6


class Participant:
    def __init__(self, file):
        self.file, self.db = file, sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self.db.executescript("""PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL;
            CREATE TABLE IF NOT EXISTS branch (xid TEXT PRIMARY KEY, state INTEGER, legs TEXT);
            CREATE TABLE IF NOT EXISTS balance (account TEXT PRIMARY KEY, posted INTEGER);""")

    def Try(self, request, state, legs):
        if state in (CANCELED, CONFIRMED):
            return state, legs, TRY_AFTER_CANCEL if state == CANCELED else RESERVED
        signed = (f"{leg.account_id}={-leg.amount if leg.direction == DEBIT else leg.amount}" for leg in request.legs)
        return RESERVED, ";".join(signed), RESERVED

    def Confirm(self, request, state, legs):
        if state in (None, CANCELED):
            return state, legs, CONTRADICTION
        for account, amount in (leg.rsplit("=", 1) for leg in legs.split(";") if state == RESERVED):
            self.db.execute("INSERT OR IGNORE INTO balance VALUES (?, 0)", (account,))
            self.db.execute("UPDATE balance SET posted = posted + ? WHERE account = ?", (int(amount), account))
        return CONFIRMED, legs, CONFIRMED

    def Cancel(self, request, state, legs):  # also of what was never tried: a later Try is refused
        return (state, legs, CONTRADICTION) if state == CONFIRMED else (CANCELED, legs, CANCELED)

    def serve(self, method, request):
        xid = f"{request.xid.partition}-{request.xid.epoch}-{request.xid.sequence}"
        self.db.execute("BEGIN IMMEDIATE")
        known = self.db.execute("SELECT state, legs FROM branch WHERE xid = ?", (xid,)).fetchone() or (None, "")
        state, legs, answer = getattr(self, method)(request, *known)
        self.db.execute("INSERT OR REPLACE INTO branch VALUES (?, ?, ?)", (xid, state, legs))
        self.db.execute("COMMIT")
        if os.path.exists(self.file + ".die") and open(self.file + ".die").read().strip() == method:
            os.remove(self.file + ".die")
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


def main(coordinator, port, file):
    channel = grpc.insecure_channel(coordinator.removeprefix("http://"))
    service = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel)).FindServiceByName(SERVICE)
    participant, handlers = Participant(file), {}
    for method in ("Try", "Confirm", "Cancel"):
        Request, Response = map(message_factory.GetMessageClass, (
            service.FindMethodByName(method).input_type, service.FindMethodByName(method).output_type))
        handlers[method] = grpc.unary_unary_rpc_method_handler(
            lambda message, _, method=method, Response=Response: Response(answer=participant.serve(method, message)),
            request_deserializer=Request.FromString, response_serializer=Response.SerializeToString)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))  # one at a time: no locks
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    if server.add_insecure_port(f"127.0.0.1:{port}") == 0:
        raise SystemExit(f"port {port} is in use")
    server.start()
    server.wait_for_termination()


main(*sys.argv[1:])
