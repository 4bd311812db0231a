//! `cargo xtask log`: writes the bundled log file, `data/logs/shop.log.gz`.
//!
//! The log is invented: the requests that a shop's web servers answer, and the payments. Pages,
//! countries, browsers and times are drawn from distributions that resemble those of real logs: few
//! pages are read often. The same program writes the same lines.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The file, relative to the root of the repository.
const FILE: &str = "data/logs/shop.log";
/// The length of the log in bytes.
const LEN: usize = 6_000_000;

const HOSTS: [&str; 4] = ["web-1", "web-2", "web-3", "api-1"];
const PAGES: [&str; 8] = [
    "/", "/search", "/basket", "/account", "/help", "/offers", "/orders", "/login",
];
const THINGS: [&str; 8] = [
    "kettle", "lamp", "teapot", "chair", "blanket", "clock", "mirror", "vase",
];
const COLORS: [&str; 6] = ["white", "black", "green", "blue", "red", "oak"];
const AGENTS: [&str; 6] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/131.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1 Version/18.1 Safari/604.1",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14.7; rv:128.0) Gecko/20100101 Firefox/128.0",
    "curl/8.10.1",
    "shop-app/3.2 (Android 15)",
];
const COUNTRIES: [&str; 8] = ["DE", "FR", "PL", "NL", "IT", "AT", "CH", "SE"];
const LANGUAGES: [&str; 4] = ["de", "en", "fr", "pl"];
const PROTOCOLS: [&str; 3] = ["HTTP/2.0", "HTTP/1.1", "HTTP/3.0"];
const REFERRERS: [&str; 5] = [
    "https://shop.example/",
    "-",
    "https://search.example/",
    "https://news.example/",
    "app",
];
const ZONES: [&str; 3] = ["eu-west", "eu-north", "eu-south"];
const CODINGS: [&str; 3] = ["gzip", "br", "identity"];
const TLS: [&str; 2] = ["TLSv1.3", "TLSv1.2"];
const REASONS: [&str; 4] = ["insufficient funds", "expired card", "limit exceeded", "do not honor"];

/// Writes the log. Returns 0 findings.
pub(crate) fn run(root: &Path) -> Result<usize> {
    let path = root.join(FILE);
    let text = log(LEN);
    fs::create_dir_all(path.parent().context("the log lies in a folder")?)?;
    fs::write(&path, &text)?;
    let packed = std::process::Command::new("gzip")
        .args(["-9", "-n", "-f"])
        .arg(&path)
        .status()
        .context("gzip packs the log")?;
    anyhow::ensure!(packed.success(), "gzip failed");
    println!("{FILE}.gz: {} bytes unpacked", text.len());
    Ok(0)
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `count`, small ones much more often: the fourth power of a uniform number.
    fn few(&mut self, count: usize) -> usize {
        (self.unit().powi(4) * count as f64) as usize
    }

    fn below(&mut self, count: usize) -> usize {
        (self.unit() * count as f64) as usize
    }

    /// A duration around `mean` milliseconds, with a long tail.
    fn millis(&mut self, mean: f64) -> u64 {
        (mean * (0.5 - (1.0 - self.unit()).ln())).round() as u64
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.few(of.len())]
    }
}

/// Returns lines until `len` bytes.
fn log(len: usize) -> String {
    let mut rng = Rng(1);
    let mut text = String::with_capacity(len + 1000);
    while text.len() < len {
        let gap = -2.0 * (1.0 - rng.unit()).ln();
        request(&mut rng, &mut text, gap as u64);
    }
    text
}

/// Writes the line of a request, `gap` seconds after the line before.
fn request(rng: &mut Rng, text: &mut String, gap: u64) {
    let (thing, color) = (rng.one(&THINGS), rng.one(&COLORS));
    let (method, path, status) = match rng.below(20) {
        0..=9 => ("GET", format!("/products/{color}-{thing}"), 200),
        10..=15 => ("GET", rng.one(&PAGES).to_string(), 200),
        16 => ("GET", format!("/images/{thing}.webp"), 304),
        17 => ("GET", format!("/products/{thing}"), 404),
        18 => ("POST", "/basket/items".to_string(), 201),
        _ => ("POST", "/orders".to_string(), 201),
    };
    let cache = match status {
        200 => rng.one(&["hit", "hit", "miss", "stale"]),
        _ => "none",
    };
    let millis = match cache {
        "hit" => rng.millis(3.0),
        _ => rng.millis(20.0),
    };
    let (host, protocol, country) = (rng.one(&HOSTS), rng.one(&PROTOCOLS), rng.one(&COUNTRIES));
    let (language, agent) = (rng.one(&LANGUAGES), rng.one(&AGENTS));
    let (referrer, tls) = (rng.one(&REFERRERS), rng.one(&TLS));
    let (zone, coding) = (rng.one(&ZONES), rng.one(&CODINGS));
    let _ = writeln!(
        text,
        "[+{gap}s] {host} zone={zone} country={country} {tls} \"{method} {path} {protocol}\" {status} \
         coding={coding} cache={cache} language={language} from={referrer} \"{agent}\" {millis} ms"
    );
    if path == "/orders" && method == "POST" {
        let price = 1 + rng.few(40);
        let result = match rng.below(8) {
            0 => format!("declined, {}", rng.one(&REASONS)),
            _ => "paid by card".to_string(),
        };
        let _ = writeln!(text, "[+0s] pay-1 order of {price}.99 EUR {result}");
    }
}

#[cfg(test)]
mod tests {
    use super::log;

    #[test]
    fn the_log_is_lines_and_always_the_same() {
        let text = log(100_000);
        assert_eq!(text, log(100_000));
        assert!(text.is_ascii() && text.ends_with('\n'));
        assert!(text.lines().all(|line| line.starts_with('[') && line.len() < 320));
    }
}
