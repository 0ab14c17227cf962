//! What the benches share.
#![allow(dead_code)] // Each uses its part.

#[cfg(feature = "postgres")]
pub mod database;
pub mod jwt;
pub mod service;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A figure from the environment.
pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The word after `cargo bench -p agentkey-benches --bench … --`.
pub fn argument() -> Option<String> {
    std::env::args().skip(1).find(|arg| !arg.starts_with('-'))
}

/// The figure that so large a part of them is below: 0.5 for the median.
pub fn quantile(figures: &[f64], part: f64) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures[((figures.len() - 1) as f64 * part).round() as usize]
}

pub fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}
