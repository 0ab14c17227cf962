//! Streams and answers in the formats of the providers.
//!
//! Their shapes are those of the types in the Python packages openai 3.57
//! (`types/chat/chat_completion_chunk.py`, `types/completion.py`, `types/responses/response_*_event.py`) and anthropic
//! 2.14 (`types/raw_*_event.py`), and of the recorded stream in `tests/lib/streaming/fixtures/basic_response.txt` of
//! anthropic-sdk-python.

use agentkey::Amount;
use agentkey::llm::{Format, FourBytes, Meter, Prompt};
use agentkey::model::TokenUsage;

use crate::support::{End, PRICE, Setting, Upstream, World};

/// A stream, the text in it by estimate, and the usage that it ends with.
struct Stream {
    format: Format,
    events: &'static [&'static str],
    text: u64,
    usage: TokenUsage,
}

const fn stream(
    format: Format,
    events: &'static [&'static str],
    text: u64,
    usage: TokenUsage,
) -> Stream {
    Stream { format, events, text, usage }
}

const STREAMS: [Stream; 8] = [
    stream(
        Format::ChatCompletions,
        &[
            r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-5","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"x8Bq"}"#,
            r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-5","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":{"content":[{"token":"Hello","logprob":-0.1,"bytes":[72],"top_logprobs":[]}],"refusal":null},"finish_reason":null}],"usage":null,"obfuscation":"Zk0"}"#,
            r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-5","choices":[{"index":0,"delta":{"content":" there!"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
            r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-5","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}"#,
            r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-5","choices":[],"usage":{"prompt_tokens":1200,"completion_tokens":67,"total_tokens":1267,"prompt_tokens_details":{"cached_tokens":1024,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":64,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}"#,
            "data: [DONE]",
        ],
        4,
        TokenUsage::new(1200, 67).cached(1024).reasoning(64),
    ),
    // A tool call, in two choices.
    stream(
        Format::ChatCompletions,
        &[
            r#"data: {"id":"chatcmpl-2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-5","choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"look","arguments":""}}]},"finish_reason":null}]}"#,
            r#"data: {"id":"chatcmpl-2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-5","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\":"}}]},"finish_reason":null},{"index":1,"delta":{"content":"I do not know."},"finish_reason":null}]}"#,
            r#"data: {"id":"chatcmpl-2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-5","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"Rome\"}"}}]},"finish_reason":null}]}"#,
            r#"data: {"id":"chatcmpl-2","object":"chat.completion.chunk","created":1790000000,"model":"gpt-5","choices":[],"usage":{"prompt_tokens":40,"completion_tokens":9,"total_tokens":49}}"#,
            "data: [DONE]",
        ],
        9,
        TokenUsage::new(40, 9),
    ),
    // Groq tells its usage in a member of its own, xAI counts the reasoning apart.
    stream(
        Format::ChatCompletions,
        &[
            r#"data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}"#,
            r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"req_1","usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":42,"completion_tokens_details":{"reasoning_tokens":30}}}}"#,
        ],
        2,
        TokenUsage::new(10, 32).reasoning(30),
    ),
    stream(
        Format::Completions,
        &[
            r#"data: {"id":"cmpl-1","object":"text_completion","created":1790000000,"model":"davinci-002","choices":[{"text":"Hello there","index":0,"logprobs":null,"finish_reason":null}]}"#,
            r#"data: {"id":"cmpl-1","object":"text_completion","created":1790000000,"model":"davinci-002","choices":[],"usage":{"prompt_tokens":6,"completion_tokens":2,"total_tokens":8}}"#,
            "data: [DONE]",
        ],
        3,
        TokenUsage::new(6, 2),
    ),
    // The text comes in pieces, and again whole in each event that says that something is done.
    stream(
        Format::Responses,
        &[
            "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"status\":\"in_progress\",\"instructions\":\"Be brief, and say nothing that is not asked.\",\"output\":[],\"usage\":null}}",
            "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\",\"sequence_number\":1,\"output_index\":0,\"item\":{\"id\":\"msg_1\",\"type\":\"message\",\"status\":\"in_progress\",\"role\":\"assistant\",\"content\":[]}}",
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":2,\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"delta\":\"Hello\",\"logprobs\":[],\"obfuscation\":\"aaaaaaaaaaaaaaaa\"}",
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":3,\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"delta\":\" there!\",\"logprobs\":[]}",
            "event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"sequence_number\":4,\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"text\":\"Hello there!\",\"logprobs\":[]}",
            "event: response.content_part.done\ndata: {\"type\":\"response.content_part.done\",\"sequence_number\":5,\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"part\":{\"type\":\"output_text\",\"text\":\"Hello there!\",\"annotations\":[]}}",
            "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"sequence_number\":6,\"output_index\":0,\"item\":{\"id\":\"msg_1\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"Hello there!\",\"annotations\":[]}]}}",
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":7,\"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"status\":\"completed\",\"output\":[{\"id\":\"msg_1\",\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"Hello there!\",\"annotations\":[]}]}],\"usage\":{\"input_tokens\":37,\"input_tokens_details\":{\"cached_tokens\":0,\"cache_write_tokens\":0},\"output_tokens\":3,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":40}}}",
        ],
        4,
        TokenUsage::new(37, 3),
    ),
    // Some items come in pieces, and some only when they are done, one between the other.
    stream(
        Format::Responses,
        &[
            "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\",\"sequence_number\":1,\"output_index\":0,\"item\":{\"id\":\"rs_1\",\"type\":\"reasoning\",\"summary\":[]}}",
            "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"sequence_number\":2,\"output_index\":0,\"item\":{\"id\":\"rs_1\",\"type\":\"reasoning\",\"summary\":[{\"type\":\"summary_text\",\"text\":\"A greeting in Rome.\"}]}}",
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":3,\"item_id\":\"msg_1\",\"output_index\":1,\"content_index\":0,\"delta\":\"Hello\",\"logprobs\":[]}",
            "event: response.function_call_arguments.delta\ndata: {\"type\":\"response.function_call_arguments.delta\",\"sequence_number\":4,\"item_id\":\"fc_1\",\"output_index\":2,\"delta\":\"{\\\"city\\\":\"}",
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":5,\"item_id\":\"msg_1\",\"output_index\":1,\"content_index\":0,\"delta\":\" there!\",\"logprobs\":[]}",
            "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"sequence_number\":6,\"output_index\":3,\"item\":{\"id\":\"fc_2\",\"type\":\"function_call\",\"call_id\":\"call_2\",\"name\":\"look\",\"arguments\":\"{\\\"city\\\":\\\"Rome\\\"}\",\"status\":\"completed\"}}",
            "event: response.function_call_arguments.delta\ndata: {\"type\":\"response.function_call_arguments.delta\",\"sequence_number\":7,\"item_id\":\"fc_1\",\"output_index\":2,\"delta\":\"\\\"Oslo\\\"}\"}",
            "event: response.function_call_arguments.done\ndata: {\"type\":\"response.function_call_arguments.done\",\"sequence_number\":8,\"item_id\":\"fc_1\",\"output_index\":2,\"arguments\":\"{\\\"city\\\":\\\"Oslo\\\"}\"}",
            "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"sequence_number\":9,\"output_index\":2,\"item\":{\"id\":\"fc_1\",\"type\":\"function_call\",\"call_id\":\"call_1\",\"name\":\"look\",\"arguments\":\"{\\\"city\\\":\\\"Oslo\\\"}\",\"status\":\"completed\"}}",
            "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"sequence_number\":10,\"output_index\":1,\"item\":{\"id\":\"msg_1\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"Hello there!\",\"annotations\":[]}]}}",
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":11,\"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"status\":\"completed\",\"output\":[],\"usage\":{\"input_tokens\":37,\"output_tokens\":17,\"output_tokens_details\":{\"reasoning_tokens\":5},\"total_tokens\":54}}}",
        ],
        19,
        TokenUsage::new(37, 17).reasoning(5),
    ),
    // The prompt is told at the beginning, in three parts, and the output at the end.
    stream(
        Format::Messages,
        &[
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"model\":\"claude\",\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":11,\"cache_creation_input_tokens\":200,\"cache_read_input_tokens\":1000,\"output_tokens\":1}}}",
            "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}",
            "event: ping\ndata: {\"type\": \"ping\"}",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"A greeting.\"}}",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds\"}}",
            "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}",
            "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"look\",\"input\":{}}}",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"city\\\":\\\"Rome\\\"}\"}}",
            "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":8,\"output_tokens_details\":{\"thinking_tokens\":3}}}",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}",
        ],
        10,
        TokenUsage::new(1211, 8).cached(1000).cache_write(200).reasoning(3),
    ),
    // No usage at all.
    stream(
        Format::Messages,
        &[
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}",
        ],
        2,
        TokenUsage::new(5, 2),
    ),
];

/// What has its own price counts too.
fn price() -> agentkey::model::TokenPrice {
    PRICE.cached(Amount::cents(30)).cache_write(Amount::cents(375)).reasoning(Amount::units(20))
}

impl Stream {
    fn bytes(&self) -> String {
        self.events.iter().map(|event| format!("{event}\n\n")).collect()
    }

    fn setting(&self, upstream: Upstream) -> Setting {
        Setting { upstream, format: self.format, meter: Meter::new(price()) }
    }
}

#[tokio::test]
async fn a_stream_is_charged_by_its_usage_at_its_end() {
    for stream in &STREAMS {
        let bytes = stream.bytes();
        for size in [1, 100, usize::MAX] {
            let world = World::new(Amount::units(1)).await;
            let upstream = Upstream::pieces(bytes.as_bytes(), size);
            let ended =
                world.send(stream.setting(upstream), crate::support::ASK).await.read_all().await;
            assert_eq!(ended.text, bytes);
            let right = price().cost(stream.usage).as_micros();
            assert_eq!(world.settled().await, right, "{bytes}");
        }
    }
}

#[test]
fn a_stream_is_read_the_same_wherever_it_is_cut() {
    for stream in &STREAMS {
        let bytes = stream.bytes();
        for at in 0..=bytes.len() {
            let mut meter = Meter::new(price());
            meter.feed(&bytes.as_bytes()[..at]).unwrap();
            meter.feed(&bytes.as_bytes()[at..]).unwrap();
            assert_eq!(meter.text(), stream.text, "{bytes} cut at {at}");
        }
    }
}

/// A client may leave after any event: until then each item counts, whether it came in pieces or not.
#[test]
fn each_item_of_a_response_counts_while_it_comes() {
    let stream = STREAMS.iter().find(|it| it.text == 19).unwrap();
    let mut meter = Meter::new(price());
    let running = stream.events.iter().map(|event| {
        meter.feed(format!("{event}\n\n").as_bytes()).unwrap();
        meter.text()
    });
    assert_eq!(running.collect::<Vec<_>>(), [0, 5, 7, 9, 11, 16, 18, 18, 19, 19, 19]);
}

/// The SDKs hang up when they have read the last event, before the stream has ended.
#[tokio::test]
async fn the_last_event_is_the_end() {
    for stream in STREAMS.iter().filter(|it| it.events.len() != 2) {
        let bytes = stream.bytes();
        let world = World::new(Amount::units(1)).await;
        let upstream = Upstream::pieces(bytes.as_bytes(), 50).end(End::Hangs);
        let mut answer = world.send(stream.setting(upstream), crate::support::ASK).await;
        answer.read(bytes.len()).await;
        drop(answer);
        assert_eq!(world.settled().await, price().cost(stream.usage).as_micros(), "{bytes}");
    }
}

#[tokio::test]
async fn a_cut_ends_with_an_error_of_the_format() {
    let long = "tale".repeat(10_000);
    for (format, delta, shape) in [
        (
            Format::ChatCompletions,
            format!(r#"{{"choices":[{{"delta":{{"content":"{long}"}}}}]}}"#),
            "data: {\"error\":{",
        ),
        (
            Format::Completions,
            format!(r#"{{"choices":[{{"text":"{long}"}}]}}"#),
            "data: {\"error\":{",
        ),
        (
            Format::Responses,
            format!(r#"{{"type":"response.output_text.delta","delta":"{long}"}}"#),
            "event: error\ndata: {",
        ),
        (
            Format::Messages,
            format!(
                r#"{{"type":"content_block_delta","delta":{{"type":"text_delta","text":"{long}"}}}}"#
            ),
            "event: error\ndata: {",
        ),
    ] {
        let world = World::new(Amount::cents(10)).await;
        let upstream = Upstream::events([crate::support::event(&delta)]);
        let setting = Setting { upstream, format, meter: Meter::new(PRICE) };
        let ended = world.send(setting, crate::support::ASK).await.read_all().await;
        assert!(ended.text.starts_with(shape), "{}", ended.text);
        let body = ended.last_event();
        let error = &body["error"];
        assert_eq!(error["code"], "budget_exceeded", "{body}");
        assert_eq!(
            (&error["limit_cents"], &error["blocked_by"]),
            (&10.into(), &"key".into()),
            "{body}"
        );
        assert!(error["message"].is_string() && error["required_cents"].is_number(), "{body}");
        let kind = if format == Format::Messages { "billing_error" } else { "insufficient_quota" };
        assert_eq!(error["type"], kind);
        match format {
            Format::Messages => assert_eq!(body["type"], "error"),
            Format::Responses => assert_eq!(
                (&body["type"], &body["code"]),
                (&"error".into(), &"budget_exceeded".into())
            ),
            _ => assert!(body.get("type").is_none() && error["param"].is_null()),
        }
        assert_eq!(world.settled().await, 15 + 150_000);
    }
}

#[tokio::test]
async fn a_whole_answer_is_charged_by_its_usage() {
    for (answer, usage) in [
        // ChatCompletion, Response: openai 3.57
        (
            r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hello there!"}}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#,
            TokenUsage::new(9, 3),
        ),
        (
            r#"{"object":"response","text":{"format":{"type":"text"}},"instructions":"Be brief.","output":[{"type":"message","content":[{"type":"output_text","text":"Hello there!"}]}],"usage":{"input_tokens":9,"output_tokens":3}}"#,
            TokenUsage::new(9, 3),
        ),
        // Message: anthropic 2.14
        (
            r#"{"type":"message","content":[{"type":"text","text":"Hello"},{"type":"tool_use","id":"toolu_1","name":"look","input":{"city":"Rome"}}],"usage":{"input_tokens":9,"output_tokens":7}}"#,
            TokenUsage::new(9, 7),
        ),
        // CreateEmbeddingResponse: openai 3.57
        (
            r#"{"object":"list","data":[{"object":"embedding","embedding":[0.1,0.2]}],"usage":{"prompt_tokens":9,"total_tokens":9}}"#,
            TokenUsage::new(9, 0),
        ),
        // Without a plausible usage, the estimate.
        (r#"{"choices":[{"message":{"content":"once upon a time, "}}]}"#, TokenUsage::new(5, 5)),
        (
            r#"{"choices":[{"message":{"content":"once upon a time, "}}],"usage":{"prompt_tokens":0,"completion_tokens":1}}"#,
            TokenUsage::new(5, 5),
        ),
    ] {
        for size in [1, usize::MAX] {
            let world = World::new(Amount::units(1)).await;
            // Some upstreams send empty lines until the answer is there.
            let bytes = format!("\n\n{answer}\n");
            let ended = world.ask(Upstream::pieces(bytes.as_bytes(), size)).await.read_all().await;
            assert_eq!(ended.text, bytes);
            assert_eq!(world.settled().await, PRICE.cost(usage).as_micros(), "{answer}");
        }
    }
}

#[test]
fn what_is_encoded_or_read_by_the_model_does_not_make_a_told_figure_implausible() {
    // A page of a PDF, of which the model reads 3,000 tokens.
    let file = "a".repeat(200_000);
    let request = serde_json::json!({ "messages": [{ "role": "user", "content": [
        { "type": "document", "source": { "type": "base64", "media_type": "application/pdf", "data": file } },
    ] }] });
    let prompt = Prompt::read(request.to_string().as_bytes(), &FourBytes).unwrap();
    assert_eq!((prompt.text, prompt.media), (5, 50_000)); // the role and the media type are text
    let mut meter = Meter::new(PRICE).prompt(prompt);
    assert_eq!(meter.usage().input, 50_005);
    let result = serde_json::json!({ "type": "content_block_start", "index": 0, "content_block":
        { "type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "content": [{ "type": "text", "text": file }] } });
    for event in [
        r#"{"type":"message_start","message":{"content":[],"usage":{"input_tokens":3000,"output_tokens":1}}}"#,
        &result.to_string(),
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hello"}}"#,
        r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":20}}"#,
    ] {
        meter.feed(format!("data: {event}\n\n").as_bytes()).unwrap();
    }
    assert_eq!(meter.usage(), TokenUsage::new(50_005, 20)); // a client that leaves here pays the estimate
    meter.feed(b"data: {\"type\":\"message_stop\"}\n\n").unwrap();
    assert_eq!(meter.usage(), TokenUsage::new(3_000, 20));
}
