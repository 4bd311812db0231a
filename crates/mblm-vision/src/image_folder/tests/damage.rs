//! Images that begin well and are damaged further on: skipped, or named all at once.

use serde_json::{Value, json};

use super::{Folder, pixels};
use mblm::data::{Dataset, Split};

/// Returns a folder of sound images, one that begins wrongly and two whose damage only decoding
/// finds.
fn with_hidden_damage() -> Folder {
    let folder = Folder::new(&["a.png", "b.jpg", "c.png", "d.jpg", "e.png"]);
    folder.write("a.png", "");
    let jpeg = folder.read("b.jpg");
    folder.write("b.jpg", &jpeg[..jpeg.len() - 3]);
    let mut png = folder.read("c.png");
    let middle = png.len() / 2;
    png[middle] ^= 0x55;
    folder.write("c.png", png);
    folder
}

#[test]
fn damaged_images_are_left_out_however_deep_the_damage() {
    let cache = tempfile::tempdir().unwrap();
    let skip = json!({"skip_bad_images": true});
    let cached = json!({"skip_bad_images": true, "cache_dir": cache.path()});
    let files = json!({"skip_bad_images": true, "jpeg_files": true});
    let streams = json!({"skip_bad_images": true, "enable_jpeg_stream_with_quality": 9});
    let with = |options: &Value| {
        let mut all = pixels();
        let keys = options.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(keys);
        all
    };
    // twice with a cache: when it is made, and when it is found
    for (options, left) in [
        (with(&skip), vec!["d.jpg", "e.png"]),
        (with(&cached), vec!["d.jpg", "e.png"]),
        (with(&cached), vec!["d.jpg", "e.png"]),
        (streams, vec!["d.jpg", "e.png"]),
        (files, vec!["d.jpg"]),
    ] {
        let folder = with_hidden_damage();
        let set = folder.open(Split::Train, options.clone()).unwrap();
        assert_eq!(set.len(0), left.len(), "{options}");
        for (index, name) in left.iter().enumerate() {
            assert!(set.path(index).unwrap().ends_with(name), "{options}");
            assert!(set.sample(index, 0).is_ok(), "{options}");
        }
    }
}

#[test]
fn an_error_names_damage_of_every_depth() {
    let message = with_hidden_damage().message(Split::Train, pixels());
    for part in [
        "a.png: expected a PNG or JPEG file, found an empty file",
        "b.jpg: the JPEG file cannot be decoded",
        "c.png: expected a PNG file",
        "3 of 5 images are damaged",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_cache_that_lacks_damaged_images_does_not_hide_them() {
    let cache = tempfile::tempdir().unwrap();
    let folder = with_hidden_damage();
    // begins well, so only decoding finds the damage
    folder.write("a.png", folder.read("e.png"));
    let options = |skip: bool| {
        let mut options = pixels();
        options["skip_bad_images"] = skip.into();
        options["cache_dir"] = json!(cache.path());
        options
    };
    assert_eq!(folder.open(Split::Train, options(true)).unwrap().len(0), 3);
    let message = folder.message(Split::Train, options(false));
    assert!(message.contains("b.jpg") && message.contains("c.png"), "{message}");
}
