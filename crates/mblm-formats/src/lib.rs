//! File formats of other programs, recognized by their first bytes and read as untrusted data.
//!
//! | module | holds |
//! |---|---|
//! | [`compressed`] | gzip members and zstd frames as one stream of bytes; recognition of other archives |
//! | [`json_line`] | the text in one field of a line of JSON Lines, also as Python writes it |
//! | [`tensors`] | reading and writing named tensors in safetensors and `torch.save` files |
//!
//! No input makes these readers panic, recurse, or allocate more than a small multiple of the bytes
//! they read. Each size that a file claims is first checked against the actual data, and nothing in
//! a file is executed. Errors are text without the name of the file.
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
