//! What a key may do: scopes, and sets of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// One thing that a key may do: `proxy.chat`, `read:user`, `claim_free`.
///
/// It is a scope-token as in RFC 6749 §3.3, of 1 to 128 characters: visible ASCII other than `"`,
/// `\` and the comma.
///
/// A *held* scope may be `*`, or end in `.*` or `:*`. Then it [covers](Self::covers) others. A `*`
/// anywhere else would never match as meant, so it is an error, and so is a comma.
///
/// ```
/// use agentkey::model::Scope;
///
/// let held: Scope = "proxy.*".parse()?;
/// assert!(held.covers(&"proxy.chat".parse()?));
/// assert!(!held.covers(&"proxy".parse()?));
/// for refused in ["two words", "read,write", "img*", "*.read"] {
///     assert!(refused.parse::<Scope>().is_err());
/// }
/// # Ok::<(), agentkey::model::ScopeError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(Arc<str>);

impl Scope {
    const MAX_LEN: usize = 128;

    /// Returns the scope with a text that a table holds. It may be one that is refused as a new scope:
    /// such a scope covers only itself.
    pub(crate) fn stored(text: &str) -> Result<Self, ScopeError> {
        let token = |byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(token) {
            Ok(Self(text.into()))
        } else {
            Err(ScopeError::Malformed)
        }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether a key that holds this scope may do what needs `required`.
    ///
    /// `*` covers everything. `a.*` covers what starts with `a.` and continues: `a.b`, `a.b.c` and
    /// `a.b.*`, but neither `a` nor `a.`. `a:*` does likewise. Any other scope covers only itself.
    pub fn covers(&self, required: &Self) -> bool {
        let (held, required) = (self.as_str(), required.as_str());
        match held.strip_suffix('*') {
            Some("") => true,
            Some(stem) if stem.ends_with(['.', ':']) => {
                required.len() > stem.len() && required.starts_with(stem)
            }
            _ => held == required,
        }
    }
}

impl TryFrom<&str> for Scope {
    type Error = ScopeError;

    fn try_from(text: &str) -> Result<Self, ScopeError> {
        let scope = Self::stored(text)?;
        if text.contains(',') {
            return Err(ScopeError::Comma);
        }
        match text.split_once('*') {
            None => Ok(scope),
            Some((stem, "")) if stem.is_empty() || stem.ends_with(['.', ':']) => Ok(scope),
            Some(_) => Err(ScopeError::Wildcard),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;

    fn try_from(text: String) -> Result<Self, ScopeError> {
        text.as_str().try_into()
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        text.try_into()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.as_str().to_owned()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({self})")
    }
}

/// Everything that a key may do: a sorted list of distinct scopes, or no restriction at all.
///
/// In JSON it is an array of strings, or `null` for unrestricted. A missing member is an error,
/// never `null`. The default is [`none`](Self::none).
///
/// ```
/// use agentkey::ScopeSet;
///
/// let parent = ScopeSet::parse(["read", "proxy.*"])?;
/// let child = ScopeSet::parse(["proxy.chat", "admin"])?;
/// assert!(parent.allows(&"proxy.chat".parse()?));
/// assert!(!child.is_within(&parent));
/// assert_eq!(child.intersect(&parent), ScopeSet::parse(["proxy.chat"])?);
/// # Ok::<(), agentkey::model::ScopeError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ScopeSet(Option<Arc<[Scope]>>);

impl ScopeSet {
    /// Returns the set that allows everything.
    pub const fn unrestricted() -> Self {
        Self(None)
    }

    /// Returns the set that allows nothing.
    pub fn none() -> Self {
        Self(Some(Arc::default()))
    }

    /// Returns the set of these scopes.
    ///
    /// # Errors
    ///
    /// [`ScopeError`] where one of them is not a scope.
    ///
    /// ```
    /// use agentkey::ScopeSet;
    ///
    /// let scopes = ScopeSet::parse(["write", "read", "read"])?;
    /// assert_eq!(scopes.to_string(), "read write");
    /// # Ok::<(), agentkey::model::ScopeError>(())
    /// ```
    pub fn parse<T: AsRef<str>>(scopes: impl IntoIterator<Item = T>) -> Result<Self, ScopeError> {
        scopes.into_iter().map(|scope| scope.as_ref().parse()).collect()
    }

    /// Returns whether the set has no restriction. A list that contains `*` allows as much, but is
    /// a list.
    pub const fn is_unrestricted(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the scopes of the list, sorted. An unrestricted set has no list, so it returns none.
    ///
    /// Ask [`is_unrestricted`](Self::is_unrestricted) first, or [`allows`](Self::allows) instead.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter().flat_map(|list| list.iter())
    }

    /// Returns whether the set allows `required`.
    pub fn allows(&self, required: &Scope) -> bool {
        self.is_unrestricted() || self.iter().any(|held| held.covers(required))
    }

    /// Returns whether `parent` allows everything that this set allows.
    pub fn is_within(&self, parent: &Self) -> bool {
        if self.is_unrestricted() {
            // A set that allows the scope `*` allows every scope.
            return parent.is_unrestricted() || parent.iter().any(|held| held.as_str() == "*");
        }
        self.iter().all(|scope| parent.allows(scope))
    }

    /// Returns what both sets allow. Sets that have nothing in common give an empty list, never
    /// everything.
    pub fn intersect(&self, other: &Self) -> Self {
        match (self.is_unrestricted(), other.is_unrestricted()) {
            (true, _) => other.clone(),
            (_, true) => self.clone(),
            // If two scopes overlap, one covers the other, and the narrower one is what they share.
            _ => {
                let mine = self.iter().filter(|scope| other.allows(scope));
                let others = other.iter().filter(|scope| self.allows(scope));
                mine.chain(others).cloned().collect()
            }
        }
    }
}

impl Default for ScopeSet {
    fn default() -> Self {
        Self::none()
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let mut list: Vec<Scope> = scopes.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        Self(Some(list.into()))
    }
}

/// The scopes with a space between them, as in RFC 6749 §3.3; `*` where it is unrestricted.
impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unrestricted() {
            return f.write_str("*");
        }
        for (n, scope) in self.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{}", scope.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_unrestricted() {
            true => f.write_str("ScopeSet(unrestricted)"),
            false => write!(f, "ScopeSet({self})"),
        }
    }
}

impl Serialize for ScopeSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.is_unrestricted() {
            true => serializer.serialize_none(),
            false => serializer.collect_seq(self.iter()),
        }
    }
}

impl<'de> Deserialize<'de> for ScopeSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde answers `deserialize_option` with `None` for a missing member. A forgotten list
        // would then be read as "unrestricted".
        deserializer.deserialize_any(NullOrList(|text| text.try_into()))
    }
}

impl ScopeSet {
    /// Reads the scopes of a record. They are those of a table, which may hold scopes that are refused as
    /// new ones.
    pub(crate) fn deserialize_stored<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NullOrList(Scope::stored))
    }
}

/// Reads a set, and each of its scopes by this function.
struct NullOrList(fn(&str) -> Result<Scope, ScopeError>);

impl<'de> Visitor<'de> for NullOrList {
    type Value = ScopeSet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of scopes, or null for unrestricted")
    }

    fn visit_unit<E: de::Error>(self) -> Result<ScopeSet, E> {
        Ok(ScopeSet::unrestricted())
    }

    fn visit_none<E: de::Error>(self) -> Result<ScopeSet, E> {
        Ok(ScopeSet::unrestricted())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<ScopeSet, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ScopeSet, A::Error> {
        let texts = std::iter::from_fn(|| list.next_element::<String>().transpose());
        texts.map(|text| (self.0)(&text?).map_err(de::Error::custom)).collect()
    }
}

/// Why a text is not a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// It is empty, too long, or has a character that a scope cannot have.
    #[error(
        "a scope is 1 to 128 visible ASCII characters without spaces, \" and \\, such as proxy.chat"
    )]
    Malformed,
    /// It has a comma.
    #[error("a scope has no comma: give each scope of a list by itself")]
    Comma,
    /// It has a `*` that is not its last whole part.
    #[error("`*` is a scope by itself, or the whole last part of one, such as proxy.* or read:*")]
    Wildcard,
    /// There is no scope where one of several is required.
    #[error("one of no scopes is required, which would refuse every request: give at least one")]
    NoScopes,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    fn stored(text: &str) -> Scope {
        Scope::stored(text).unwrap()
    }

    fn set(scopes: &[&str]) -> ScopeSet {
        ScopeSet::parse(scopes).unwrap()
    }

    #[test]
    fn scopes_are_rfc_6749_tokens() {
        for text in
            ["a", "proxy.chat", "read:user", "claim_free", "!", "~", "#[]", "*", &"x".repeat(128)]
        {
            assert_eq!(scope(text).as_str(), text);
        }
        for text in ["", " ", "a b", "a\"", "a\\b", "a\n", "a\x7f", "é", &"x".repeat(129)] {
            assert_eq!(text.parse::<Scope>(), Err(ScopeError::Malformed), "{text:?}");
        }
        assert_eq!(
            ScopeError::Malformed.to_string(),
            "a scope is 1 to 128 visible ASCII characters without spaces, \" and \\, such as proxy.chat"
        );
    }

    #[test]
    fn scopes_that_never_match_as_meant_are_refused() {
        for text in ["a,b", ",", "a,", "*,a"] {
            assert_eq!(text.parse::<Scope>(), Err(ScopeError::Comma), "{text}");
        }
        for text in ["img*", "**", "*.x", "*.*", "a.*.b", "a.b*", "a.**", "*a", "a:*:b", "a*.*"] {
            assert_eq!(text.parse::<Scope>(), Err(ScopeError::Wildcard), "{text}");
            let json = serde_json::to_string(&[text]).unwrap();
            assert!(serde_json::from_str::<ScopeSet>(&json).is_err(), "{text}");
        }
        for text in ["*", "a.*", "a:*", "a.b:*", "a-b.*"] {
            assert_eq!(scope(text).as_str(), text);
        }
    }

    /// A table may hold them: they are read as they are, and cover only themselves.
    #[test]
    fn scopes_of_a_table_are_read_as_they_are() {
        for text in ["a,b", "img*", "**", "*.x"] {
            assert!(stored(text).covers(&stored(text)), "{text}");
            assert!(
                !["a", "b", "img1", "x", "a.x"]
                    .iter()
                    .any(|other| stored(text).covers(&scope(other)))
            );
        }
        for text in ["", "two words", "a\"", &"x".repeat(129)] {
            assert_eq!(Scope::stored(text), Err(ScopeError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_star_covers_what_goes_on_after_it() {
        for (held, required, covers) in [
            ("*", "anything", true),
            ("*", "a.*", true),
            ("*", "*", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", true),
            ("a.*", "a.b.*", true),
            ("a.*", "a.*", true),
            ("a.*", "a", false),
            ("a.*", "a.", false),
            ("a.*", "ab", false),
            ("a.*", "a:b", false),
            ("a.*", "*", false),
            ("a.*", "A.b", false),
            ("a.b.*", "a.*", false),
            ("a:*", "a:b", true),
            ("a:*", "a:b:c", true),
            ("a:*", "a", false),
            ("a*", "ab", false),
            ("a*", "a*", true),
            ("a", "a", true),
            ("a", "a.b", false),
            ("a.b", "a.*", false),
        ] {
            assert_eq!(stored(held).covers(&stored(required)), covers, "{held} {required}");
        }
    }

    #[test]
    fn disjoint_sets_share_nothing() {
        let both = set(&["read"]).intersect(&set(&["write"]));
        assert_eq!(both, ScopeSet::none());
        assert!(!both.is_unrestricted());
        assert_eq!(ScopeSet::none().intersect(&ScopeSet::unrestricted()), ScopeSet::none());
    }

    #[test]
    fn intersections_keep_the_narrower() {
        let all = ScopeSet::unrestricted();
        assert_eq!(all.intersect(&all), all);
        assert_eq!(all.intersect(&set(&["a"])), set(&["a"]));
        assert_eq!(set(&["a.*", "b"]).intersect(&set(&["a.b", "*"])), set(&["a.*", "a.b", "b"]));
        assert_eq!(set(&["a.*"]).intersect(&set(&["a.b.*"])), set(&["a.b.*"]));
    }

    #[test]
    fn within() {
        let all = ScopeSet::unrestricted();
        assert!(all.is_within(&all) && all.is_within(&set(&["*"])) && set(&["*"]).is_within(&all));
        assert!(!all.is_within(&set(&["a.*"])) && !all.is_within(&ScopeSet::none()));
        assert!(ScopeSet::none().is_within(&ScopeSet::none()));
        assert!(set(&["a.b", "a.c.*"]).is_within(&set(&["a.*"])));
        assert!(!set(&["a.*"]).is_within(&set(&["a.b"])));
    }

    #[test]
    fn json_is_a_list_or_null() {
        for (scopes, json) in [
            (ScopeSet::unrestricted(), "null"),
            (ScopeSet::none(), "[]"),
            (set(&["b", "a", "b"]), r#"["a","b"]"#),
        ] {
            assert_eq!(serde_json::to_string(&scopes).unwrap(), json);
            assert_eq!(serde_json::from_str::<ScopeSet>(json).unwrap(), scopes);
            assert_eq!(
                serde_json::from_value::<ScopeSet>(serde_json::to_value(&scopes).unwrap()).unwrap(),
                scopes
            );
        }
        let error = serde_json::from_str::<ScopeSet>("\"read\"").unwrap_err().to_string();
        assert!(error.contains("expected an array of scopes, or null for unrestricted"), "{error}");
        let error = serde_json::from_str::<ScopeSet>(r#"["a b"]"#).unwrap_err().to_string();
        assert!(error.starts_with("a scope is 1 to 128"), "{error}");
    }

    #[test]
    fn a_missing_list_is_never_unrestricted() {
        #[derive(Debug, serde::Deserialize)]
        struct Ask {
            #[expect(dead_code, reason = "the test is about its absence")]
            scopes: ScopeSet,
        }
        let error = serde_json::from_str::<Ask>("{}").unwrap_err().to_string();
        assert!(error.starts_with("missing field `scopes`"), "{error}");
        assert!(!ScopeSet::default().is_unrestricted());
        assert_eq!(ScopeSet::default().iter().count(), 0);
    }

    #[test]
    fn shown_with_spaces() {
        assert_eq!(set(&["b", "a.*"]).to_string(), "a.* b");
        assert_eq!(ScopeSet::none().to_string(), "");
        assert_eq!(ScopeSet::unrestricted().to_string(), "*");
        assert_eq!(format!("{:?}", ScopeSet::unrestricted()), "ScopeSet(unrestricted)");
        assert_eq!(format!("{:?}", set(&["a"])), "ScopeSet(a)");
        assert_eq!(format!("{:?}", scope("a")), "Scope(a)");
    }

    /// The alphabet is small, so that scopes often overlap.
    fn scopes() -> impl Strategy<Value = Scope> {
        "\\*|[ab]?[.:]?\\*|([ab][.:]){0,2}[ab*]|[ab]\\.".prop_map(|text| stored(&text))
    }

    fn sets() -> impl Strategy<Value = ScopeSet> {
        prop_oneof![
            1 => Just(ScopeSet::unrestricted()),
            9 => prop::collection::vec(scopes(), 0..5).prop_map(ScopeSet::from_iter),
        ]
    }

    proptest! {
        #[test]
        fn an_intersection_allows_what_both_allow(a in sets(), b in sets(), scope in scopes()) {
            let both = a.intersect(&b);
            prop_assert_eq!(both.allows(&scope), a.allows(&scope) && b.allows(&scope));
            prop_assert!(both.is_within(&a) && both.is_within(&b));
            prop_assert_eq!(&both, &b.intersect(&a));
        }

        #[test]
        fn within_means_nothing_more_is_allowed(a in sets(), b in sets(), scope in scopes()) {
            if a.is_within(&b) {
                prop_assert!(!a.allows(&scope) || b.allows(&scope));
            } else {
                let beyond = a.is_unrestricted() && !b.allows(&"*".parse().unwrap());
                prop_assert!(beyond || a.iter().any(|scope| !b.allows(scope)));
            }
        }

        #[test]
        fn covering_is_transitive(a in scopes(), b in scopes(), c in scopes()) {
            prop_assert!(a.covers(&a));
            prop_assert!(!(a.covers(&b) && b.covers(&c)) || a.covers(&c));
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = text.parse::<Scope>();
        }
    }
}
