//! Files of named tensors, safetensors and torch's `.pth`: locating, reading and writing tensors.
//!
//! | file | holds |
//! |---|---|
//! | `stored.rs` | the location of one tensor in a file, and its conversion to and from a [`Tensor`](candle_core::Tensor) |
//! | `safetensors.rs` | the safetensors format: reading a header, writing a file |
//! | `pickle` | the part of Python's pickle language that a torch file needs, read into a flat arena; nothing is executed |
//! | `state_dict.rs` | finding the weights among the pickled objects |
//! | `torch.rs` | torch's zip format: from the unpickled objects to tensors |
//! | `torch_write.rs` | the same format, written |

mod pickle;
mod safetensors;
mod state_dict;
mod stored;
#[cfg(test)]
mod tests;
mod torch;
mod torch_write;

pub use ::safetensors::Dtype as StoredType;
pub use safetensors::{write as write_safetensors, write_with as write_safetensors_with};
pub use stored::Stored;
pub use torch_write::write as write_torch;

/// Returns the named tensors of a file's bytes, in any supported format, in the order of the file.
///
/// # Errors
/// A file that is damaged, of another format, or without tensors.
pub fn read(file: &[u8]) -> Result<Vec<(String, Stored)>, String> {
    if torch::is_format(file) {
        torch::read(file)
    } else if safetensors::is_format(file) {
        safetensors::read(file)
    } else if torch::is_legacy_format(file) {
        Err(
            "a torch file in the format from before torch 1.6; re-save it in Python: \
                    `torch.save(torch.load(path, map_location=\"cpu\"), new_path)`"
                .into(),
        )
    } else if file.starts_with(b"version https://git-lfs") {
        Err("a Git LFS pointer in place of the file; fetch the file with `git lfs pull`".into())
    } else {
        Err(format!(
            "expected a .safetensors or a torch file, found {} bytes of another format, beginning with `{}`",
            file.len(),
            file[..file.len().min(16)].escape_ascii()
        ))
    }
}

/// Returns the metadata of this key in a safetensors file; `None` for other formats.
pub fn metadata(file: &[u8], key: &str) -> Option<String> {
    match safetensors::is_format(file) {
        true => safetensors::metadata(file, key),
        false => None,
    }
}
