//! Files of named tensors, safetensors and torch's `.pth`: where each tensor lies, and how it is read and written.
//!
//! | file | holds |
//! |---|---|
//! | `stored.rs` | where one tensor lies in a file, how its bytes become a [`Tensor`](candle_core::Tensor) and come from one |
//! | `safetensors.rs` | the safetensors format: reading a header, writing a file |
//! | `pickle` | the part of Python's pickle language that a torch file needs, read into a flat arena; nothing is executed |
//! | `state_dict.rs` | which of the pickled objects are the weights |
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

/// The named tensors of a file, given by its bytes, whatever the format; in the order of the file.
///
/// # Errors
/// What is wrong with a file that is damaged, of another format, or holds no tensors.
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
            "expected a .safetensors or a torch file, found {} bytes of neither, beginning with `{}`",
            file.len(),
            file[..file.len().min(16)].escape_ascii()
        ))
    }
}

/// The metadata of this key in a safetensors file; `None` also for files of other formats.
pub fn metadata(file: &[u8], key: &str) -> Option<String> {
    match safetensors::is_format(file) {
        true => safetensors::metadata(file, key),
        false => None,
    }
}
