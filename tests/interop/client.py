"""A client of Escrow written with nothing but grpcio and server reflection: no .proto file, no generated code.

Usage: client.py ENDPOINT COMMAND [WORD...], the answer is JSON:
  open ACCOUNT...                          opens accounts in USD (those named bank-... may go below zero)
  transfer FROM TO AMOUNT ID               moves minor units of USD
  execute ID LEG...                        LEG is debit|credit:ACCOUNT:AMOUNT[:PARTICIPANT]
  balance ACCOUNT                          what is posted, in minor units
  get ID                                   what became of a transaction
  in-doubt                                 transactions in doubt
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Escrow:
    """Calls any unary method by its name; messages are built from the descriptors that the server tells."""

    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(endpoint.removeprefix("http://"))
        self.pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    def call(self, service, method, **fields):
        described = self.pool.FindServiceByName(f"escrow.v1.{service}").FindMethodByName(method)
        request = message_factory.GetMessageClass(described.input_type)
        response = message_factory.GetMessageClass(described.output_type)
        call = self.channel.unary_unary(
            f"/escrow.v1.{service}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        answer = call(json_format.ParseDict(fields, request()), timeout=30)
        return json_format.MessageToDict(answer, preserving_proto_field_name=True)


def leg(text):
    direction, account, amount, *participant = text.split(":")
    return {
        "account_id": account,
        "direction": f"DIRECTION_{direction.upper()}",
        "amount": amount,
        "currency": "USD",
        "participant": "".join(participant),
    }


def run(escrow, command, words):
    match command:
        case "open":
            policy = lambda name: {"unlimited": True} if name.startswith("bank-") else {"forbidden": True}
            accounts = [{"account_id": name, "currency": "USD", "overdraft": policy(name)} for name in words]
            return escrow.call("AccountService", "OpenAccounts", accounts=accounts)
        case "transfer":
            source, target, amount, transaction_id = words
            return escrow.call(
                "TransferService", "Transfer", transaction_id=transaction_id, from_account_id=source,
                to_account_id=target, amount=amount, currency="USD",
            )
        case "execute":
            transaction_id, *legs = words
            legs = [leg(text) for text in legs]
            return escrow.call(
                "TransactionService", "Execute", transaction_id=transaction_id, legs=legs, timeout_ms=25000,
            )
        case "balance":
            account = escrow.call("AccountService", "GetAccount", account_id=words[0])["account"]
            return int(account["balances"][0].get("posted", 0))
        case "get":
            return escrow.call("TransferService", "GetTransaction", id=words[0])
        case "in-doubt":
            return escrow.call("OperatorService", "ListTransactions", filter={"in_doubt": True})
    raise SystemExit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    try:
        print(json.dumps(run(Escrow(sys.argv[1]), sys.argv[2], sys.argv[3:])))
    except grpc.RpcError as error:
        print(json.dumps({"error": error.code().name, "message": error.details()}))
        raise SystemExit(1)
