//! The answers of CLEVR, and their characters for categorical answers: 0 to 9 stand for themselves,
//! A to R for 10 and the words in alphabetical order.

/// The answers, in the order of their characters.
pub const ANSWERS: [&str; 28] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "blue", "brown", "cube", "cyan", "cylinder", "gray",
    "green", "large", "metal", "no", "purple", "red", "rubber", "small", "sphere", "yellow", "yes",
];

/// Their characters.
const CLASSES: &[u8; 28] = b"0123456789ABCDEFGHIJKLMNOPQR";

/// Returns the character of an answer; `None` if it is not an answer of CLEVR.
pub fn class_of(answer: &str) -> Option<u8> {
    ANSWERS
        .iter()
        .position(|known| *known == answer)
        .map(|index| CLASSES[index])
}

/// Returns the answer of a character.
pub fn answer_of(class: u8) -> Option<&'static str> {
    CLASSES
        .iter()
        .position(|known| *known == class)
        .map(|index| ANSWERS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_character() {
        // the order of the specification
        let listed = "blue B, brown C, cube D, cyan E, cylinder F, gray G, green H, large I, metal J, no K, purple L, red M, \
                      rubber N, small O, sphere P, yellow Q, yes R";
        for pair in listed.split(", ") {
            let (answer, class) = pair.split_once(' ').unwrap();
            assert_eq!(class_of(answer), Some(class.as_bytes()[0]), "{answer}");
        }
        assert_eq!(
            (class_of("0"), class_of("9"), class_of("10")),
            (Some(b'0'), Some(b'9'), Some(b'A'))
        );
        for answer in ANSWERS {
            assert_eq!(class_of(answer).and_then(answer_of), Some(answer));
        }
        assert_eq!((class_of("maybe"), class_of(""), answer_of(b'S')), (None, None, None));
    }
}
