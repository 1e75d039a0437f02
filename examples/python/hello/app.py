"""The smallest function: greets whoever the event names."""


def handler(event, context):
    name = event.get("name", "world")
    return {"message": f"Hello, {name}!", "request_id": context.aws_request_id}
