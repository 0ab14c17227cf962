//! Prices by model.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::model::{Amount, TokenPrice};

/// Prices by model, as the application has them in a file of TOML or JSON.
///
/// Prices are in units of the account's currency per million tokens, with at most six decimals. What
/// is not given costs as much as other input or output. A model that is not listed has the price
/// under `default`; without one it is refused. `hidden_reasoning` is for
/// [`Meter::hidden_reasoning`](super::Meter::hidden_reasoning).
///
/// ```
/// use agentkey::Amount;
/// use agentkey::llm::PriceTable;
/// use agentkey::model::TokenPrice;
///
/// let table: PriceTable = serde_json::from_str(r#"{
///     "models": {
///         "small-1": { "input": 0.15, "output": "0.60" },
///         "large-1": { "input": 3, "cached_input": 0.30, "cache_write": 3.75, "output": 15, "reasoning": 15 },
///         "deep-1": { "input": 1, "output": 8, "hidden_reasoning": true }
///     }
/// }"#)?;
/// let small = TokenPrice::new(Amount::cents(15), Amount::cents(60));
/// assert_eq!(table.price("small-1")?, small);
/// assert!(table.has_hidden_reasoning("deep-1") && !table.has_hidden_reasoning("small-1"));
/// assert!(table.price("unheard-of").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceTable {
    #[serde(default)]
    models: BTreeMap<String, Price>,
    #[serde(default)]
    default: Option<Price>,
}

/// The table has no price for a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model {model:?} has no price")]
#[non_exhaustive]
pub struct UnknownModel {
    /// The model.
    pub model: String,
}

impl PriceTable {
    /// Returns the price of a model: its own, or the default.
    ///
    /// # Errors
    ///
    /// [`UnknownModel`] where the table has neither.
    pub fn price(&self, model: &str) -> Result<TokenPrice, UnknownModel> {
        let row = self.row(model);
        row.map(|row| row.price).ok_or_else(|| UnknownModel { model: model.to_owned() })
    }

    /// Returns whether a model reasons in tokens that it bills and does not send, as its row says, or the
    /// default.
    pub fn has_hidden_reasoning(&self, model: &str) -> bool {
        self.row(model).is_some_and(|row| row.has_hidden_reasoning)
    }

    fn row(&self, model: &str) -> Option<&Price> {
        self.models.get(model).or(self.default.as_ref())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Price {
    price: TokenPrice,
    has_hidden_reasoning: bool,
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let row = Row::deserialize(deserializer)?;
        let price = TokenPrice::new(row.input.0, row.output.0)
            .cached(row.cached_input.unwrap_or(row.input).0)
            .cache_write(row.cache_write.unwrap_or(row.input).0)
            .reasoning(row.reasoning.unwrap_or(row.output).0);
        Ok(Self { price, has_hidden_reasoning: row.hidden_reasoning })
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    input: Units,
    output: Units,
    cached_input: Option<Units>,
    cache_write: Option<Units>,
    reasoning: Option<Units>,
    #[serde(default)]
    hidden_reasoning: bool,
}

/// An amount in units, as a number or a text. It is never negative.
#[derive(Clone, Copy)]
struct Units(Amount);

impl<'de> Deserialize<'de> for Units {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadUnits)
    }
}

struct ReadUnits;

impl Visitor<'_> for ReadUnits {
    type Value = Units;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a price in units per million tokens, such as 0.15")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Units, E> {
        text.parse::<Amount>().and_then(Amount::non_negative).map(Units).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, units: i64) -> Result<Units, E> {
        self.visit_str(&units.to_string())
    }

    fn visit_u64<E: de::Error>(self, units: u64) -> Result<Units, E> {
        self.visit_str(&units.to_string())
    }

    // The shortest text of a float is what stands in the file.
    fn visit_f64<E: de::Error>(self, units: f64) -> Result<Units, E> {
        self.visit_str(&units.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TokenUsage;

    fn read(json: &str) -> Result<PriceTable, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_of_token_has_its_price() {
        let table = read(
            r#"{"models":{"m":{"input":3,"cached_input":0.3,"cache_write":"3.75","output":15,"reasoning":20}}}"#,
        );
        let price = table.unwrap().price("m").unwrap();
        let usage = TokenUsage::new(3_000_000, 2_000_000)
            .cached(1_000_000)
            .cache_write(1_000_000)
            .reasoning(1_000_000);
        assert_eq!(price.cost(usage), Amount::cents(300 + 30 + 375 + 1_500 + 2_000));
    }

    #[test]
    fn an_unknown_model_is_refused_or_has_the_default() {
        let row = r#"{"input":1,"output":2}"#;
        let refusing = read(&format!(r#"{{"models":{{"m":{row}}}}}"#)).unwrap();
        assert_eq!(refusing.price("n").unwrap_err().to_string(), "the model \"n\" has no price");
        let lenient = read(&format!(r#"{{"default":{row}}}"#)).unwrap();
        assert_eq!(
            lenient.price("n").unwrap(),
            TokenPrice::new(Amount::units(1), Amount::units(2))
        );
    }

    #[test]
    fn a_price_that_is_no_price_is_refused() {
        for row in [
            r#"{"input":1}"#,
            r#"{"input":-1,"output":2}"#,
            r#"{"input":1,"output":-0.5}"#,
            r#"{"input":0.0000001,"output":2}"#,
            r#"{"input":"a","output":2}"#,
            r#"{"input":null,"output":2}"#,
            r#"{"input":1e300,"output":2}"#,
            r#"{"input":1,"output":2,"cached":0.1}"#,
        ] {
            assert!(read(&format!(r#"{{"models":{{"m":{row}}}}}"#)).is_err(), "{row}");
        }
        assert!(read(r#"{"model":{}}"#).is_err());
    }
}
