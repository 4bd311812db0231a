//! The words of a question: several templates per family in CLEVR's style, and synonyms drawn for
//! every word.

use super::attributes::{Attribute, Direction, Value};
use super::draws::Draws;
use super::family::{Comparison, Family};
use super::phrase::{Link, Phrase};

/// The grammatical number of a phrase.
#[derive(Clone, Copy, PartialEq)]
enum Number {
    One,
    Many,
}

/// Returns the text of a question. In templates `#` and `@` stand for the first and the second
/// phrase.
pub(super) fn ask(draws: &mut Draws, family: Family, phrases: &[Phrase]) -> String {
    let (templates, number): (&[&str], _) = match family {
        Family::Exist(_) => match draws.coin() {
            true => (&["Are there any # ?", "Are any # visible?"], Number::Many),
            false => (&["Is there % ?", "Is % visible?"], Number::One),
        },
        Family::Count(_) => (
            &[
                "How many # are there?",
                "What number of # are there?",
                "There are # ; how many?",
            ],
            Number::Many,
        ),
        Family::CountEither => (
            &[
                "How many objects are either # or @ ?",
                "What number of things are either # or @ ?",
            ],
            Number::Many,
        ),
        Family::Query(attribute, _) => (query(attribute), Number::One),
        Family::CompareAttribute(attribute, _) => (compare(attribute), Number::One),
        Family::CompareInteger(comparison, _) => (
            match comparison {
                Comparison::Equal => &[
                    "Are there an equal number of # and @ ?",
                    "Is the number of # the same as the number of @ ?",
                    "Are there the same number of # and @ ?",
                ],
                Comparison::Less => &[
                    "Are there fewer # than @ ?",
                    "Is the number of # less than the number of @ ?",
                ],
                Comparison::Greater => &[
                    "Are there more # than @ ?",
                    "Is the number of # greater than the number of @ ?",
                ],
            },
            Number::Many,
        ),
    };
    let template = draws.pick(templates).copied().unwrap_or_default();
    let mut text = String::new();
    for word in template.split(' ') {
        let (said, phrase) = match word {
            "#" => ("", phrases.first()),
            "@" => ("", phrases.get(1)),
            "%" => ("a", phrases.first()),
            _ => (word, None),
        };
        let phrase = phrase.map(|phrase| describe(draws, phrase, number));
        let said = match (said, phrase) {
            ("a", Some(phrase)) => with_article(phrase),
            (_, Some(phrase)) => phrase,
            (word, None) => word.to_string(),
        };
        if !text.is_empty() && !matches!(word, "?" | ";") {
            text.push(' ');
        }
        text.push_str(&said);
    }
    text
}

fn with_article(phrase: String) -> String {
    // another object than the one it is compared with
    if let Some(rest) = phrase.strip_prefix("other ") {
        return format!("another {rest}");
    }
    let article = if phrase.starts_with("object") { "an" } else { "a" };
    format!("{article} {phrase}")
}

fn query(attribute: Attribute) -> &'static [&'static str] {
    match attribute {
        Attribute::Size => &[
            "What size is the # ?",
            "How big is the # ?",
            "What is the size of the # ?",
        ],
        Attribute::Color => &["What color is the # ?", "What is the color of the # ?"],
        Attribute::Material => &[
            "What is the # made of?",
            "What material is the # ?",
            "What is the material of the # ?",
        ],
        Attribute::Shape => &["What shape is the # ?", "What is the shape of the # ?"],
    }
}

fn compare(attribute: Attribute) -> &'static [&'static str] {
    match attribute {
        Attribute::Size => &[
            "Is the # the same size as the @ ?",
            "Does the # have the same size as the @ ?",
            "Is the size of the # the same as that of the @ ?",
        ],
        Attribute::Color => &[
            "Is the # the same color as the @ ?",
            "Does the # have the same color as the @ ?",
            "Is the color of the # the same as that of the @ ?",
        ],
        Attribute::Material => &[
            "Is the # made of the same material as the @ ?",
            "Does the # have the same material as the @ ?",
            "Is the material of the # the same as that of the @ ?",
        ],
        Attribute::Shape => &[
            "Is the # the same shape as the @ ?",
            "Does the # have the same shape as the @ ?",
            "Is the shape of the # the same as that of the @ ?",
        ],
    }
}

/// Returns a noun phrase without its article.
fn describe(draws: &mut Draws, phrase: &Phrase, number: Number) -> String {
    let mut words: Vec<&str> = Vec::new();
    if phrase.links.iter().any(|(link, _)| matches!(link, Link::Same(_))) {
        words.push("other");
    }
    words.extend(
        phrase.values[..3]
            .iter()
            .flatten()
            .map(|value| adjective(draws, *value)),
    );
    let noun = noun(draws, phrase.values[3]);
    words.push(noun);
    let mut text = words.join(" ");
    if number == Number::Many {
        text.push('s');
    }
    if phrase.links.is_empty() {
        return text;
    }
    text.push_str(match number {
        Number::One => " that is",
        Number::Many => " that are",
    });
    let both = phrase.links.len() > 1;
    for (index, (link, anchor)) in phrase.links.iter().enumerate() {
        text.push_str(match index {
            0 if both => " both ",
            0 => " ",
            _ => " and ",
        });
        let words = match link {
            Link::Direction(direction) => relation(draws, *direction),
            Link::Same(Attribute::Material) => "made of the same material as",
            Link::Same(Attribute::Size) => "the same size as",
            Link::Same(Attribute::Color) => "the same color as",
            Link::Same(Attribute::Shape) => "the same shape as",
        };
        text.push_str(&format!("{words} the {}", describe(draws, anchor, Number::One)));
    }
    text
}

/// Returns one of several words with equal probability.
fn one_of(draws: &mut Draws, words: &[&'static str]) -> &'static str {
    draws.pick(words).copied().unwrap_or_default()
}

fn relation(draws: &mut Draws, direction: Direction) -> &'static str {
    one_of(
        draws,
        match direction {
            Direction::Left => &["left of", "to the left of", "on the left side of"],
            Direction::Right => &["right of", "to the right of", "on the right side of"],
            Direction::Front => &["in front of"],
            Direction::Behind => &["behind"],
        },
    )
}

fn adjective(draws: &mut Draws, value: Value) -> &'static str {
    match value.name() {
        "large" => one_of(draws, &["large", "big"]),
        "small" => one_of(draws, &["small", "tiny"]),
        "metal" => one_of(draws, &["metal", "metallic", "shiny"]),
        "rubber" => one_of(draws, &["rubber", "matte"]),
        color => color,
    }
}

fn noun(draws: &mut Draws, shape: Option<Value>) -> &'static str {
    match shape.map(Value::name) {
        None => one_of(draws, &["thing", "object"]),
        Some("cube") => one_of(draws, &["cube", "block"]),
        Some("sphere") => one_of(draws, &["sphere", "ball"]),
        Some(shape) => shape,
    }
}

#[cfg(test)]
mod tests {
    use super::super::family::Chain;
    use super::*;

    fn phrase(words: &str, links: Vec<(Link, Phrase)>) -> Phrase {
        let value = |attribute: Attribute| words.split(' ').find_map(|word| attribute.value(word));
        Phrase {
            values: Attribute::ALL.map(value),
            links,
        }
    }

    /// Returns whether one of many draws gives the text.
    #[track_caller]
    fn says(family: Family, phrases: &[Phrase], expected: &str) {
        let texts: Vec<String> = (0..3000)
            .map(|seed| ask(&mut Draws::new(&[seed]), family, phrases))
            .collect();
        assert!(
            texts.iter().any(|text| text == expected),
            "{expected}: {:?}",
            &texts[..4]
        );
        for text in &texts {
            assert!(
                text.ends_with('?') && !text.contains("  ") && !text.contains(" ?"),
                "{text}"
            );
            assert!(!text.contains(['#', '@', '%']), "{text}");
        }
    }

    #[test]
    fn questions_read_like_clevrs() {
        let cube = || phrase("small cube", vec![]);
        let left = phrase("large metal sphere", vec![(Link::Direction(Direction::Left), cube())]);
        says(
            Family::Query(Attribute::Color, Chain::Hops(1)),
            std::slice::from_ref(&left),
            "What color is the large metal sphere that is left of the small cube?",
        );
        says(
            Family::Exist(Chain::Hops(0)),
            &[phrase("red", vec![])],
            "Are there any red things?",
        );
        says(
            Family::Exist(Chain::Hops(0)),
            &[phrase("red", vec![])],
            "Is there a red object?",
        );
        says(
            Family::Exist(Chain::Same(Attribute::Color)),
            &[phrase("", vec![(Link::Same(Attribute::Color), cube())])],
            "Is there another object that is the same color as the tiny block?",
        );
        says(
            Family::Count(Chain::Both),
            &[phrase(
                "rubber",
                vec![
                    (Link::Direction(Direction::Front), cube()),
                    (Link::Direction(Direction::Behind), phrase("cyan", vec![])),
                ],
            )],
            "How many matte things that are both in front of the small cube and behind the cyan object are there?",
        );
        says(
            Family::CountEither,
            &[phrase("cylinder", vec![]), phrase("big yellow", vec![])],
            "How many objects are either cylinders or yellow things?",
        );
        says(
            Family::CompareInteger(Comparison::Greater, [0, 1]),
            &[cube(), left],
            "Are there more small cubes than large metal spheres that are left of the small cube?",
        );
        says(
            Family::CompareAttribute(Attribute::Material, [0, 0]),
            &[cube(), phrase("gray sphere", vec![])],
            "Is the small cube made of the same material as the gray ball?",
        );
    }
}
