//! Pickles as Python writes them in every protocol, and what is refused.

use super::*;
use proptest::prelude::*;

fn integers(bytes: &[u8]) -> Vec<i64> {
    let pickle = Pickle::read(bytes).unwrap();
    let Object::Tuple(items) = pickle.top() else {
        panic!("{pickle:?}")
    };
    items
        .iter()
        .map(|&id| match pickle.get(id) {
            Object::Int(value) => *value,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn integers_of_every_width() {
    // Written by Python: pickle.dumps((7, 300, -5, 2**40, -2**40, 0), 2) without the memo.
    let bytes = b"\x80\x02(K\x07M\x2c\x01J\xfb\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\x06\x00\x00\x00\x00\x00\xff\x8a\x00t.";
    assert_eq!(integers(bytes), [7, 300, -5, 1 << 40, -(1 << 40), 0]);
}

#[test]
fn a_shared_object_is_filled_once_for_all() {
    // d = OrderedDict(); d kept as 0, a tuple of d twice, then {"a": 1} put into d.
    let bytes = b"\x80\x02ccollections\nOrderedDict\n)Rq\x00X\x01\x00\x00\x00aK\x01sh\x00\x86.";
    let pickle = Pickle::read(bytes).unwrap();
    let Object::Tuple(items) = pickle.top() else {
        panic!("{pickle:?}")
    };
    assert_eq!(items[0], items[1]);
    assert!(matches!(pickle.get(items[0]), Object::Dict(pairs) if pairs.len() == 1));
}

#[test]
fn doubling_and_nesting_stay_linear() {
    // ((((), ()), ((), ())), …): 2^2000 leaves when copied, 2001 objects here; dropped without
    // recursion.
    let mut bytes = b"\x80\x02)".to_vec();
    for _ in 0..2000 {
        bytes.extend(b"q\x00h\x00\x86");
    }
    bytes.push(b'.');
    assert_eq!(Pickle::read(&bytes).unwrap().objects.len(), EMPTY + 2001);
    let mut bytes = b"\x80\x02)".to_vec();
    bytes.extend(std::iter::repeat_n(0x85, 500_000));
    bytes.push(b'.');
    assert_eq!(Pickle::read(&bytes).unwrap().objects.len(), EMPTY + 500_001);
}

#[test]
fn errors_say_where_and_what() {
    let message = |bytes: &[u8]| Pickle::read(bytes).unwrap_err();
    assert_eq!(
        message(b"\x80\x06."),
        "byte 0 of the pickle: pickle protocol 6; expected 0 to 5"
    );
    assert!(
        message(b"\x80\x02X\xff\xff\xff\xffabc").contains("4294967295 bytes expected, but the pickle ends after 3")
    );
    assert!(message(b"\x80\x02\x8a\xff").contains("255 bytes expected"));
    assert!(message(b"\x80\x02!").contains("opcode 0x21"));
    assert!(message(b"\x80\x05\x97").contains("lie outside of the pickle"));
    assert!(message(b"\x80\x02h\x05").contains("the memo has no object 5"));
    assert!(
        message(b"\x80\x02K\x01(\x85").contains("too few objects"),
        "pops below a mark"
    );
    assert!(message(b"\x80\x02K\x01K\x02a").contains("items added to an integer"));
    assert!(message(b"\x80\x02}(K\x01u").contains("key without a value"));
    assert!(message(b"\x80\x02cabc").contains("a name without end"));
    assert!(message(&[b']'; MAX_OBJECTS + 1]).contains("more than"));
}

proptest! {
    #[test]
    fn any_program_ends_without_panic(program in prop::collection::vec(
        prop_oneof![
            prop::sample::select(b"().NKMJGXcttt]}aesuQRbqrhjUTCBILFSPVldoi012pg".to_vec()),
            0x80u8..0x99,
            0u8..4,
            any::<u8>(),
        ],
        0..200,
    )) {
        if let Ok(pickle) = Pickle::read(&program) {
            prop_assert!(pickle.objects.len() <= EMPTY + 1 + 2 * program.len());
        }
    }
}
