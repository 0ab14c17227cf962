//! The formats of the providers, as far as their errors differ.

/// The format in which a model's provider answers. A [`Meter`](super::Meter) reads all of them alike;
/// the format says in which shape a client reads an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// OpenAI's Chat Completions, and what calls itself compatible.
    ChatCompletions,
    /// OpenAI's legacy completions.
    Completions,
    /// OpenAI's Responses.
    Responses,
    /// Anthropic's Messages.
    Messages,
}

impl Format {
    /// Returns the format that the providers answer in at a path, by how the path ends:
    /// `/chat/completions`, `/completions`, `/responses` or `/messages`.
    pub fn of_path(path: &str) -> Option<Self> {
        let path = path.trim_end_matches('/');
        let is = |end: &str| path.ends_with(end);
        match () {
            () if is("/chat/completions") => Some(Self::ChatCompletions),
            () if is("/completions") => Some(Self::Completions),
            () if is("/responses") => Some(Self::Responses),
            () if is("/messages") => Some(Self::Messages),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_says_the_format() {
        for (path, format) in [
            ("/v1/chat/completions", Some(Format::ChatCompletions)),
            ("/openai/v1/completions", Some(Format::Completions)),
            ("/v1/responses/", Some(Format::Responses)),
            ("/v1/messages", Some(Format::Messages)),
            ("/v1/messages/count_tokens", None),
            ("/v1/models", None),
        ] {
            assert_eq!(Format::of_path(path), format, "{path}");
        }
    }
}
