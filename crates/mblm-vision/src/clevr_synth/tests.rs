//! The written data set, read from its JSON and PNG files alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value as Json;

use super::*;
use crate::clevr::QuestionType;

fn options(train_images: usize) -> Options {
    Options {
        train_images,
        val_images: 2,
        questions_per_image: 10,
        seed: 11,
        small: true,
        max_objects: 10,
        max_relations: MAX_RELATIONS,
    }
}

fn made(path: &Path, options: &Options) -> Summary {
    write(path, options, &mut |_| ControlFlow::Continue(()))
        .unwrap()
        .unwrap()
}

fn read(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn list<'a>(json: &'a Json, key: &str) -> &'a [Json] {
    json[key].as_array().unwrap()
}

fn keys(json: &Json) -> BTreeSet<&str> {
    json.as_object().unwrap().keys().map(String::as_str).collect()
}

fn numbers(json: &Json) -> Vec<usize> {
    json.as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_u64().unwrap() as usize)
        .collect()
}

/// Returns all files below a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let name = entry.path().strip_prefix(folder).unwrap().display().to_string();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Returns a scene's JSON as a graph.
fn graph(scene: &Json) -> Graph {
    let names =
        |object: &'_ Json| ["size", "color", "material", "shape"].map(|key| object[key].as_str().unwrap().to_string());
    let looks: Vec<[String; 4]> = list(scene, "objects").iter().map(names).collect();
    let looks: Vec<[&str; 4]> = looks
        .iter()
        .map(|look| [0, 1, 2, 3].map(|at| look[at].as_str()))
        .collect();
    let related = ["left", "right", "front", "behind"].map(|direction| {
        list(&scene["relationships"], direction)
            .iter()
            .map(numbers)
            .collect::<Vec<_>>()
    });
    Graph::from_parts(&looks, [&related[0], &related[1], &related[2], &related[3]]).unwrap()
}

/// Returns the answer of a question's program on a graph.
fn answer(question: &Json, graph: &Graph) -> Option<String> {
    let steps: Vec<(Function, Vec<usize>)> = list(question, "program")
        .iter()
        .map(|step| {
            assert_eq!(keys(step), BTreeSet::from(["function", "inputs", "value_inputs"]));
            let argument = list(step, "value_inputs").first().map(|value| value.as_str().unwrap());
            let function = Function::parse(step["function"].as_str().unwrap(), argument).unwrap();
            (function, numbers(&step["inputs"]))
        })
        .collect();
    execute(graph, steps.iter().map(|(function, inputs)| (*function, &inputs[..]))).map(Answer::name)
}

#[test]
fn every_question_has_the_answer_that_its_program_gives_on_the_written_scene() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clevr");
    let summary = made(&path, &options(40));
    assert_eq!(
        (summary.train_images, summary.val_images, summary.questions),
        (40, 2, 420)
    );
    let mut counted = BTreeMap::<String, usize>::new();
    for (split, images) in [("train", 40), ("val", 2)] {
        let scenes = read(&path.join(format!("scenes/CLEVR_{split}_scenes.json")));
        let questions = read(&path.join(format!("questions/CLEVR_{split}_questions.json")));
        assert_eq!(scenes["info"]["split"], split);
        assert_eq!(list(&scenes, "scenes").len(), images);
        assert_eq!(list(&questions, "questions").len(), 10 * images);
        let mut different = BTreeSet::new();
        for (index, question) in list(&questions, "questions").iter().enumerate() {
            let image = question["image_index"].as_u64().unwrap() as usize;
            let scene = &list(&scenes, "scenes")[image];
            let found = answer(question, &graph(scene)).unwrap();
            assert_eq!(found, question["answer"].as_str().unwrap(), "{question}");
            assert_eq!(question["question_index"], index);
            assert_eq!(image, index / 10);
            assert_eq!(question["split"], split);
            assert_eq!(question["image_filename"], scene["image_filename"]);
            assert!(question["question_family_index"].as_u64().unwrap() < 79);
            assert!(question["question"].as_str().unwrap().ends_with('?'));
            let expected =
                "answer image_filename image_index program question question_family_index question_index split";
            assert_eq!(keys(question), expected.split(' ').collect());
            assert!(different.insert((image, question["question"].to_string())));
            *counted.entry(found).or_default() += 1;
        }
    }
    let mut summed = BTreeMap::<String, usize>::new();
    for (answer, count) in summary.answers.values().flatten() {
        *summed.entry(answer.clone()).or_default() += count;
    }
    assert_eq!(counted, summed);
}

#[test]
fn scenes_are_clevrs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clevr");
    made(
        &path,
        &Options {
            small: false,
            ..options(6)
        },
    );
    let scenes = read(&path.join("scenes/CLEVR_train_scenes.json"));
    for (index, scene) in list(&scenes, "scenes").iter().enumerate() {
        let expected = "directions image_filename image_index objects relationships split";
        assert_eq!(keys(scene), expected.split(' ').collect());
        assert_eq!(scene["image_index"], index);
        assert_eq!(scene["image_filename"], format!("CLEVR_train_{index:06}.png"));
        assert_eq!(
            keys(&scene["relationships"]),
            BTreeSet::from(["behind", "front", "left", "right"])
        );
        let directions = BTreeSet::from(["above", "behind", "below", "front", "left", "right"]);
        assert_eq!(keys(&scene["directions"]), directions);
        let objects = list(scene, "objects");
        let place =
            |json: &Json| -> Vec<f64> { json.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
        for (i, object) in objects.iter().enumerate() {
            let expected = "3d_coords color material pixel_coords rotation shape size";
            assert_eq!(keys(object), expected.split(' ').collect());
            let seen = place(&object["pixel_coords"]);
            assert!(
                (0.0..480.0).contains(&seen[0]) && (0.0..320.0).contains(&seen[1]),
                "{seen:?}"
            );
            for direction in ["left", "right", "front", "behind"] {
                let axis = place(&scene["directions"][direction]);
                let along =
                    |object: &Json| -> f64 { place(&object["3d_coords"]).iter().zip(&axis).map(|(x, y)| x * y).sum() };
                let expected: Vec<usize> = (0..objects.len())
                    .filter(|j| along(&objects[*j]) > along(object) + 1e-3)
                    .collect();
                assert_eq!(numbers(&scene["relationships"][direction][i]), expected);
            }
        }
    }
}

#[test]
fn images_are_rgba_of_the_size_that_was_asked() {
    for (small, size) in [(false, (480, 320)), (true, (120, 80))] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clevr");
        made(&path, &Options { small, ..options(2) });
        let names: Vec<String> = files(&path).into_keys().collect();
        let expected = [
            "images/train/CLEVR_train_000000.png",
            "images/train/CLEVR_train_000001.png",
            "images/val/CLEVR_val_000000.png",
            "images/val/CLEVR_val_000001.png",
            "questions/CLEVR_train_questions.json",
            "questions/CLEVR_val_questions.json",
            "scenes/CLEVR_train_scenes.json",
            "scenes/CLEVR_val_scenes.json",
        ];
        assert_eq!(names, expected);
        for name in &names[..4] {
            let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path.join(name)).unwrap()));
            let mut reader = decoder.read_info().unwrap();
            assert_eq!(reader.output_color_type(), (png::ColorType::Rgba, png::BitDepth::Eight));
            assert_eq!(reader.info().size(), size);
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut pixels).unwrap();
            assert!(pixels.chunks_exact(4).all(|pixel| pixel[3] == 255));
            let shades: BTreeSet<&[u8]> = pixels.chunks_exact(4).collect();
            assert!(shades.len() > 100, "{}", shades.len());
        }
    }
}

#[test]
fn the_files_do_not_depend_on_threads_or_on_the_number_of_images() {
    let folder = tempfile::tempdir().unwrap();
    let with_threads = |threads: usize, name: &str, options: &Options| {
        let path = folder.path().join(name);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| made(&path, options));
        files(&path)
    };
    let alone = with_threads(1, "one", &options(5));
    assert!(alone == with_threads(3, "three", &options(5)));
    assert!(alone != with_threads(3, "seed", &Options { seed: 12, ..options(5) }));
    let more = with_threads(2, "more", &options(7));
    for (name, bytes) in alone.iter().filter(|(name, _)| name.starts_with("images")) {
        assert!(more[name] == *bytes, "{name}");
    }
    let full = with_threads(
        2,
        "full",
        &Options {
            small: false,
            ..options(5)
        },
    );
    let name = "questions/CLEVR_train_questions.json";
    assert!(full[name] == alone[name]);
}

/// Returns the accuracy, on the last third of the questions, of the most frequent answer among the
/// other questions with the same key (or among all others, if there is none): what the words alone
/// reveal.
fn prior(questions: &[&Json], key: impl Fn(&Json) -> String) -> f64 {
    let (known, asked) = questions.split_at(questions.len() * 2 / 3);
    let answer = |question: &Json| question["answer"].as_str().unwrap().to_string();
    let mut counts: HashMap<Option<String>, BTreeMap<String, usize>> = HashMap::new();
    for question in known {
        for key in [None, Some(key(question))] {
            *counts.entry(key).or_default().entry(answer(question)).or_default() += 1;
        }
    }
    let best = |question: &Json| {
        let answers = counts.get(&Some(key(question))).or(counts.get(&None)).unwrap();
        answers
            .iter()
            .max_by_key(|(_, count)| **count)
            .map(|(answer, _)| answer.clone())
    };
    let right = asked
        .iter()
        .filter(|question| best(question) == Some(answer(question)))
        .count();
    right as f64 / asked.len() as f64
}

/// Returns the functions of a program without their values: the question's structure.
fn structure(question: &Json) -> String {
    let names = list(question, "program")
        .iter()
        .map(|step| step["function"].as_str().unwrap());
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn relations_are_limited_and_every_type_stays() {
    for (max_relations, most) in [(0, 0), (1, 1), (2, 2), (3, 3)] {
        let (mut draws, asker) = (draws::Draws::new(&[5]), question::Asker::new(max_relations));
        let (mut types, mut found) = (BTreeSet::new(), 0);
        for _ in 0..200 {
            let graph = Graph::of(&sampling::draw(&mut draws, 10));
            for question in asker.ask(&mut draws, &graph, 10) {
                types.insert(question.question_type);
                let steps = question.program.iter();
                let relations = steps.filter(|step| matches!(step.function(), Function::Relate(_) | Function::Same(_)));
                // a comparison describes two objects
                let sides = match question.question_type {
                    QuestionType::CompareInteger | QuestionType::CompareAttribute => 2,
                    _ => 1,
                };
                let count = relations.count();
                assert!(count <= most * sides, "{}", question.text);
                found = found.max(count);
            }
        }
        assert_eq!(types, BTreeSet::from(QuestionType::ALL));
        assert!(found >= most, "{max_relations}: {found}");
    }
}

#[test]
fn types_are_clevrs_and_answers_are_balanced() {
    let (mut draws, asker) = (draws::Draws::new(&[77]), question::Asker::new(MAX_RELATIONS));
    let mut questions = Vec::new();
    for image in 0..1500 {
        let graph = Graph::of(&sampling::draw(&mut draws, 10));
        let place = records::Place { split: "train", image };
        for question in asker.ask(&mut draws, &graph, 10) {
            let json = records::question(place, questions.len(), &question).unwrap();
            questions.push((question.question_type, serde_json::from_str::<Json>(&json).unwrap()));
        }
    }
    assert_eq!(questions.len(), 15_000);
    let of = |kind| -> Vec<&Json> {
        questions
            .iter()
            .filter(|(other, _)| *other == kind)
            .map(|(_, question)| question)
            .collect()
    };
    for (kind, share, most) in [
        (QuestionType::Exist, 0.135, 0.55),
        (QuestionType::Count, 0.24, 0.45),
        (QuestionType::CompareInteger, 0.09, 0.56),
        (QuestionType::QueryAttribute, 0.355, 0.35),
        (QuestionType::CompareAttribute, 0.18, 0.55),
    ] {
        let these = of(kind);
        let found = these.len() as f64 / 15_000.0;
        assert!((found - share).abs() < 0.03, "{kind:?}: {found}");
        let best = prior(&these, |_| String::new());
        let by_structure = prior(&these, structure);
        let by_words = prior(&these, |question| question["program"].to_string());
        println!("{kind:?}: {found:.3}; prior {best:.3}, by structure {by_structure:.3}, by program {by_words:.3}");
        assert!(best < most, "{kind:?}: {best}");
        assert!(by_structure < most + 0.1, "{kind:?}: {by_structure}");
        assert!(by_words < most + 0.1, "{kind:?}: {by_words}");
    }
    for attribute in Attribute::ALL {
        let last = format!("query_{}", attribute.name());
        let all = of(QuestionType::QueryAttribute);
        let these: Vec<&Json> = all
            .into_iter()
            .filter(|question| structure(question).ends_with(&last))
            .collect();
        let even = 1.0 / attribute.values().len() as f64;
        let best = prior(&these, |_| String::new());
        println!("{last}: {} questions, most frequent answer {best:.3}", these.len());
        assert!(best < even + 0.05, "{last}: {best}");
    }
}

#[test]
fn a_run_that_is_broken_off_leaves_nothing_and_bad_options_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clevr");
    let mut calls = 0;
    let stopped = write(&path, &options(70), &mut |_| {
        calls += 1;
        if calls > 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(stopped.unwrap().is_none());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    for (bad, message) in [
        (
            Options {
                train_images: 0,
                ..options(1)
            },
            "images: expected 1 to 1000000, found 0",
        ),
        (
            Options {
                max_objects: 11,
                ..options(1)
            },
            "objects: expected 3 to 10, found 11",
        ),
        (
            Options {
                max_relations: 4,
                ..options(1)
            },
            "relations: expected 0 to 3, found 4",
        ),
        (
            Options {
                questions_per_image: 51,
                ..options(1)
            },
            "questions per image: expected 1 to 50, found 51",
        ),
    ] {
        let error = write(&path, &bad, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn the_fewest_objects_give_the_most_questions() {
    let folder = tempfile::tempdir().unwrap();
    let hard = Options {
        questions_per_image: MAX_QUESTIONS,
        max_objects: MIN_OBJECTS,
        ..options(4)
    };
    assert_eq!(made(&folder.path().join("clevr"), &hard).questions, 6 * MAX_QUESTIONS);
}
