"""An agent that uses the SDKs of OpenAI and Anthropic. Prints what its code sees, as a line of JSON for each step."""

import json
import sys

import anthropic
import openai

url, tokens = sys.argv[1], json.loads(sys.argv[2])
ask = {"model": "tales-1", "messages": [{"role": "user", "content": "Tell me a tale."}]}


def OpenAI(key):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=tokens[key], max_retries=0)


def Anthropic(key):
    return anthropic.Anthropic(base_url=url, api_key=tokens[key], max_retries=0)


def show(step, **seen):
    print(json.dumps({"step": step, **seen}), flush=True)


def caught(error):
    body = error.body.get("error", error.body) if isinstance(error.body, dict) else {}
    return {
        "error": type(error).__name__,
        "module": type(error).__module__.split(".")[0],
        "status": getattr(error, "status_code", None),
        "code": body.get("code"),
        "type": body.get("type"),
        "limit_cents": body.get("limit_cents"),
        "remaining_cents": body.get("remaining_cents"),
        "required_cents": body.get("required_cents"),
    }


def read(step, stream, text_of, usage_of):
    text, usage, error = "", None, None
    try:
        for event in stream:
            text += text_of(event) or ""
            usage = usage_of(event) or usage
    except (openai.APIError, anthropic.APIError) as problem:
        error = caught(problem)
    show(step, pieces=text.count("once upon a time, "), usage=usage, error=error)


def chat_text(chunk):
    return chunk.choices[0].delta.content if chunk.choices else ""


def response_text(event):
    return event.delta if event.type == "response.output_text.delta" else ""


def message_text(event):
    return event.delta.text if event.type == "content_block_delta" else ""


def refused(step, call):
    try:
        call()
        show(step, error=None)
    except (openai.APIError, anthropic.APIError) as problem:
        show(step, error=caught(problem))


# Whole streams.
read(
    "chat stream",
    OpenAI("chat stream").chat.completions.create(**ask, stream=True, max_completion_tokens=60),
    chat_text,
    lambda chunk: chunk.usage and chunk.usage.completion_tokens,
)
read(
    "completion stream",
    OpenAI("completion stream").completions.create(model="tales-1", prompt="Tell me a tale.", stream=True, max_tokens=60),
    lambda chunk: chunk.choices[0].text if chunk.choices else "",
    lambda chunk: chunk.usage and chunk.usage.completion_tokens,
)
read(
    "response stream",
    OpenAI("response stream").responses.create(model="tales-1", input="Tell me a tale.", stream=True, max_output_tokens=60),
    response_text,
    lambda event: event.response.usage.output_tokens if event.type == "response.completed" else None,
)
read(
    "message stream",
    Anthropic("message stream").messages.create(**ask, stream=True, max_tokens=60),
    message_text,
    lambda event: event.usage.output_tokens if event.type == "message_delta" else None,
)

# Whole answers, as an SDK asks for them by default.
answer = OpenAI("chat").chat.completions.create(**ask, max_completion_tokens=60)
show("chat", pieces=answer.choices[0].message.content.count("once"), usage=answer.usage.completion_tokens)
answer = OpenAI("response").responses.create(model="tales-1", input="Tell me a tale.", max_output_tokens=60)
show("response", pieces=answer.output_text.count("once"), usage=answer.usage.output_tokens)
answer = Anthropic("message").messages.create(**ask, max_tokens=60)
show("message", pieces=answer.content[0].text.count("once"), usage=answer.usage.output_tokens)
# Without a limit, the proxy sets one.
answer = OpenAI("chat default").chat.completions.create(**ask)
show("chat default", pieces=answer.choices[0].message.content.count("once"), usage=answer.usage.completion_tokens)

# Streams without an end, which are cut off at the limit.
read("chat cut", OpenAI("chat cut").chat.completions.create(**ask, stream=True), chat_text, lambda chunk: None)
read(
    "response cut",
    OpenAI("response cut").responses.create(model="tales-1", input="Tell me a tale.", stream=True),
    response_text,
    lambda event: None,
)
read(
    "message cut",
    Anthropic("message cut").messages.create(**ask, stream=True, max_tokens=64_000),
    message_text,
    lambda event: None,
)

# A stream that the agent leaves.
stream = OpenAI("chat left").chat.completions.create(**ask, stream=True)
pieces = 0
for chunk in stream:
    pieces += "once" in (chat_text(chunk) or "")
    if pieces == 10:
        break
stream.close()
show("chat left", pieces=pieces)

# Refusals.
refused("chat refused", lambda: OpenAI("poor").chat.completions.create(**ask, max_completion_tokens=1000))
refused("default refused", lambda: OpenAI("poor").chat.completions.create(**ask))
refused("response refused", lambda: OpenAI("poor").responses.create(model="tales-1", input="Hi", stream=True))
refused("message refused", lambda: Anthropic("poor").messages.create(**ask, max_tokens=1000))
tokens["nobody"] = "sk-nobody"
refused("chat unknown", lambda: OpenAI("nobody").chat.completions.create(**ask))
refused("message unknown", lambda: Anthropic("nobody").messages.create(**ask, max_tokens=10))
refused("model unknown", lambda: OpenAI("chat").chat.completions.create(**{**ask, "model": "unheard-of"}))
