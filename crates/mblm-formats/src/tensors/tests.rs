//! Damaged files: whatever the bytes, opening and loading return a value or an error.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::{read, safetensors, torch_write};

fn small_files() -> [Vec<u8>; 2] {
    let w = Tensor::arange(0f32, 24., &Device::Cpu)
        .unwrap()
        .reshape((4, 6))
        .unwrap();
    let tensors = [
        ("to_logits.weight".to_owned(), w.clone()),
        ("start_tokens.0".to_owned(), w.get(0).unwrap()),
    ];
    let mut safe = Vec::new();
    safetensors::write(&tensors, &mut safe).unwrap();
    let mut torch = Vec::new();
    torch_write::write(&tensors, Some(0.5), &mut torch).unwrap();
    [safe, torch]
}

/// Opens and loads all tensors; returns their stored bytes, at most a small multiple of the file.
fn read_all(file: &[u8]) -> Result<usize, String> {
    let mut elements = 0;
    for (name, stored) in &read(file)? {
        match stored.load(file, DType::F32, &Device::Cpu) {
            Ok(tensor) => {
                assert!(tensor.elem_count() <= file.len(), "{name}");
                elements += tensor.elem_count();
            }
            Err(error) => assert!(!stored.is_float(), "{name}: {error}"),
        }
    }
    Ok(elements)
}

#[test]
fn whole_files_are_read() {
    for file in small_files() {
        assert_eq!(read_all(&file), Ok(30));
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for file in small_files() {
        for length in 0..file.len() {
            assert!(read_all(&file[..length]).is_err(), "{length} of {} bytes", file.len());
        }
    }
}

#[test]
fn bytes_overwritten_anywhere_do_no_harm() {
    for file in small_files() {
        for fill in [0x00, 0x7f, 0xff] {
            for width in [1, 2, 4, 8] {
                for start in 0..file.len() - width {
                    let mut damaged = file.clone();
                    damaged[start..start + width].fill(fill);
                    // Both an error and changed numbers are acceptable.
                    let _ = read_all(&damaged);
                }
            }
        }
    }
}

#[test]
fn a_byte_too_many_is_an_error_where_the_header_tells_the_length() {
    let [mut safe, mut torch] = small_files();
    safe.push(0);
    assert!(read_all(&safe).unwrap_err().contains("but 121 bytes follow"));
    // A zip archive is read from its end and may be followed by other data.
    torch.push(0);
    assert_eq!(read_all(&torch), Ok(30));
}

proptest! {
    #[test]
    fn random_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(read_all(&bytes).is_err());
    }

    #[test]
    fn random_bytes_after_a_true_beginning_are_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        torch in any::<bool>(),
    ) {
        let mut file = if torch {
            b"PK\x03\x04".to_vec()
        } else {
            let mut prefix = (bytes.len() as u64 / 2 + 1).to_le_bytes().to_vec();
            prefix.push(b'{');
            prefix
        };
        file.extend(bytes);
        prop_assert!(read_all(&file).is_err());
    }

    #[test]
    fn changed_bytes_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        for mut file in small_files() {
            let length = file.len();
            for (index, value) in &changes {
                file[index.index(length)] = *value;
            }
            let _ = read_all(&file);
        }
    }
}
