//! Formats of files that others wrote, told by their first bytes and read without trust.
//!
//! | module | holds |
//! |---|---|
//! | [`compressed`] | gzip members and zstd frames as one stream of bytes; what other archives are, and what unpacks them |
//! | [`json_line`] | the text in one field of a line of JSON Lines, also as Python writes it |
//! | [`tensors`] | named tensors of safetensors files and of whatever `torch.save` wrote, read and written |
//!
//! No input makes these readers panic, recurse, or allocate more than a small multiple of what they read: every size that a file
//! claims is checked against what is there first, and nothing in a file is executed. Errors are words, without the name of the file.
//!
//! ```
//! use mblm_formats::compressed::Packed;
//! use mblm_formats::json_line::text_of;
//!
//! assert_eq!(text_of(br#"{"id": 1, "text": "some"}"#, "text").unwrap(), "some");
//! assert_eq!(Packed::of(b"PK\x03\x04").unwrap().command, "unzip FILE");
//! ```

pub mod compressed;
pub mod json_line;
pub mod tensors;
