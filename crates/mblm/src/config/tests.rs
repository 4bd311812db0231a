//! Tests of reading and checking whole configurations: accepted input, and the text of each
//! message.
//!
//! Longer than 450 lines: all tests change one common configuration.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::blocks::{Mamba2, PositionEmbedding, Transformer, UntypedBlock};

const TWO_STAGES: &str = "\
# A comment
io:
  name_model: prose
  output_dir: runs
  dataset_dir: prose.txt
  dataset_id: bytes
  dataset_args: {held_out: 0.05, nested: {list: [1, null, x]}}
  num_models_to_save: 1
  validate_amount: 10
  log_train_loss_amount: 100
params:
  input_seq_len: 128
  num_tokens: 257
  pad_token_id: 256
  hidden_dims: [32, 32]
  num_layers: [2, 2]
  seq_lens: [1_6, 8]
  train_checkpoint_chunks: null
  block:
    - d_state: 1_6
      d_conv: 4
      expand: 2
      headdim: 16
    - attn_head_dims: 16
      attn_num_heads: 2
      attn_use_rot_embs: true
      pos_emb_type: fixed
train:
  target_elements: 7_000_000
  target_elements_strategy: sequence
  batch_size: 2
  learning_rate: 1e-3
  gradient_accumulate_every: 2
";

fn read(overrides: &[&str]) -> crate::Result<Experiment> {
    read_text(TWO_STAGES, overrides)
}

fn read_text(text: &str, overrides: &[&str]) -> crate::Result<Experiment> {
    let overrides: Vec<String> = overrides.iter().map(|argument| argument.to_string()).collect();
    Experiment::from_yaml_str(text, "my.yaml", &overrides)
}

/// Returns the message for `TWO_STAGES` with `from` replaced by `to`.
fn message(from: &str, to: &str) -> String {
    assert!(TWO_STAGES.contains(from), "{from}");
    read_text(&TWO_STAGES.replacen(from, to, 1), &[])
        .unwrap_err()
        .to_string()
}

fn override_message(argument: &str) -> String {
    let message = read(&[argument]).unwrap_err().to_string();
    let prefix = format!("--set {argument}: ");
    message
        .strip_prefix(&prefix)
        .unwrap_or_else(|| panic!("{prefix:?} expected before {message:?}"))
        .to_string()
}

/// Returns the same experiment with another model, from JSON.
fn architecture(json: &str) -> Architecture {
    serde_json::from_str(json).unwrap()
}

fn encoder() -> String {
    let text = TWO_STAGES.replace("hidden_dims: [32, 32]", "mask_token_id: 255\n  hidden_dims: [32, 32]");
    let (head, tail) = text.split_once("  num_tokens").unwrap();
    let (model, train) = tail.split_once("train:\n").unwrap();
    let block = "    block: {attn_head_dims: 16, attn_num_heads: 2, attn_use_rot_embs: true}\n";
    let model = format!("  num_tokens{}", model.split_once("  block:").unwrap().0);
    let model: String = model
        .lines()
        .filter(|line| !line.contains("mask"))
        .map(|line| format!("  {line}\n"))
        .collect();
    format!("{head}  mask_token_id: 255\n  mblm_config:\n{model}{block}train:\n  masking_proba: 0.15\n{train}")
}

#[test]
fn reads_the_published_keys_with_their_defaults() {
    let experiment = read(&[]).unwrap();
    let train = &experiment.train;
    assert_eq!(train.target_elements, 7_000_000);
    assert_eq!((train.warmup_steps_perc, train.lr), (0.1, 1e-3));
    assert_eq!(
        (train.shuffle_train, train.shuffle_eval, train.max_eval_steps),
        (false, false, None)
    );
    assert_eq!((train.max_grad_norm, train.masking_proba, train.seed), (None, None, 0));
    assert_eq!(
        (train.precision, train.optimizer),
        (Precision::Auto, OptimizerKind::Adam)
    );
    assert_eq!(experiment.io.enabled_loss_log_for_gpus, [0]);
    assert_eq!(experiment.io.dataset_args.as_ref().unwrap()["nested"]["list"][2], "x");
    assert_eq!(experiment.resume, None);
    let model = experiment.params.architecture.model();
    assert_eq!(experiment.params.architecture.kind(), "decoder");
    assert_eq!(model.seq_lens, [16, 8]);
    assert_eq!(
        (model.patch_bytes(0), model.patch_bytes(1), model.context()),
        (8, 1, 128)
    );
    let mamba: &Mamba2 = model.block[0].downcast_ref().unwrap();
    assert_eq!((mamba.d_state, mamba.dropout, mamba.pos_emb_type), (16, 0.0, None));
    let transformer: &Transformer = model.block[1].downcast_ref().unwrap();
    assert_eq!(
        (
            transformer.ff_multiplier,
            transformer.ff_dropout,
            transformer.use_flash_attn
        ),
        (2, 0.0, false)
    );
    assert_eq!(model.block[1].position_embedding(), Some(PositionEmbedding::Fixed));
}

#[test]
fn one_block_serves_all_stages() {
    let experiment =
        read(&["params.block={attn_head_dims: 8, attn_num_heads: 2_0, attn_use_rot_embs: false}"]).unwrap();
    let blocks = &experiment.params.architecture.model().block;
    assert_eq!(blocks.len(), 2);
    assert_eq!(blocks[0], blocks[1]);
    assert_eq!(blocks[0].downcast_ref::<Transformer>().unwrap().attn_num_heads, 20);
}

#[test]
fn reads_encoders_and_infers_their_blocks() {
    let experiment = read_text(&encoder(), &[]).unwrap();
    let Architecture::Encoder(config) = &experiment.params.architecture else {
        panic!("an encoder")
    };
    assert_eq!((config.mask_token_id, config.mask_reduce_strat), (255, MaskReduce::Any));
    assert_eq!(config.mblm_config.block[1].block_type(), "transformerEncoder");
    assert_eq!(experiment.train.masking_proba, Some(0.15));
    let all = read_text(&encoder(), &["params.mask_reduce_strat=all"]).unwrap();
    assert!(
        matches!(all.params.architecture, Architecture::Encoder(config) if config.mask_reduce_strat == MaskReduce::All)
    );
}

#[test]
fn keeps_the_options_of_custom_blocks() {
    let experiment =
        read(&["params.block.0={block_type: lstm, hidden: 1_024, bias: true, pos_emb_type: rope}"]).unwrap();
    let model = experiment.params.architecture.model();
    let block: &UntypedBlock = model.block[0].downcast_ref().unwrap();
    assert_eq!(
        (model.block[0].block_type(), model.block[0].position_embedding()),
        ("lstm", Some(PositionEmbedding::Rope))
    );
    assert_eq!(
        serde_json::to_string(block.options()).unwrap(),
        r#"{"hidden":1024,"bias":true}"#
    );
    assert_eq!(model.block[0].dropout(), None);
    let yaml = experiment.to_yaml_string().unwrap();
    assert_eq!(read_text(&yaml, &[]).unwrap(), experiment);
}

#[test]
fn writes_what_it_reads() {
    let mut experiments = vec![read(&[]).unwrap(), read_text(&encoder(), &[]).unwrap()];
    let resume =
        "resume={checkpoint_file: old/model.pth, next_epoch_index: 1, next_batch_index: 20_0, resumed_from: a b}";
    let summary = "summary={training_start: a, training_end: b, num_workers: 1, cuda_devices: [cpu], parameter_count: 5, \
                   error: null}";
    experiments.push(read(&[resume, summary, "train.optimizer=adamw", "train.weight_decay=0.1"]).unwrap());
    for text in [
        "7_000",
        "null",
        "true",
        "a: b # c",
        "two\nlines\n",
        " x ",
        "",
        "\"quoted'",
        "é\u{1F600}\t\\",
        "- a",
        "1e3",
    ] {
        let mut experiment = read(&[]).unwrap();
        experiment.io.description = Some(text.to_string());
        experiment.train.lr = 0.1 + 0.2;
        experiments.push(experiment);
    }
    for experiment in experiments {
        let yaml = experiment.to_yaml_string().unwrap();
        assert_eq!(read_text(&yaml, &[]).unwrap(), experiment, "{yaml}");
        let json = serde_json::to_string(&experiment.params.architecture).unwrap();
        assert_eq!(architecture(&json), experiment.params.architecture, "{json}");
    }
}

#[test]
fn json_has_the_published_keys_in_their_order() {
    let json = r#"{"num_tokens":257,"pad_token_id":256,"hidden_dims":[32],"num_layers":[2],"seq_lens":[64],"train_checkpoint_chunks":null,"block":[{"block_type":"transformer","attn_head_dims":16,"attn_num_heads":2,"attn_use_rot_embs":true,"attn_dropout":0.0,"ff_multiplier":2,"ff_dropout":0.0,"use_flash_attn":false,"pos_emb_type":"fixed"}]}"#;
    assert_eq!(serde_json::to_string(&architecture(json)).unwrap(), json);
    let error = serde_json::from_str::<Architecture>(&json.replace("attn_head_dims", "attn_head_dim")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("unknown key \"attn_head_dim\" in block.0; did you mean"),
        "{error}"
    );
}

/// Files that the package and older versions of this program wrote must stay unchanged.
#[test]
fn yaml_and_json_of_blocks_are_written_as_ever() {
    let experiment = read(&[
        "params.hidden_dims=[32, 32, 32, 32]",
        "params.num_layers=[1, 1, 1, 1]",
        "params.seq_lens=[4, 2, 2, 8]",
        "params.block=[{d_state: 16, d_conv: 4, expand: 2, headdim: 16}, {block_type: mamba1, d_state: 4, d_conv: 2, \
         expand: 1, headdim: 7, dropout: 0.25}, {attn_head_dims: 16, attn_num_heads: 2, attn_use_rot_embs: true, \
         pos_emb_type: fixed}, {block_type: lstm, hidden: 8, bias: true}]",
    ])
    .unwrap();
    let yaml = experiment.to_yaml_string().unwrap();
    let blocks = "  block:
  - block_type: mamba2
    d_state: 16
    d_conv: 4
    expand: 2
    headdim: 16
    dropout: 0.0
    pos_emb_type: null
  - block_type: mamba1
    d_state: 4
    d_conv: 2
    expand: 1
    headdim: 7
    dropout: 0.25
    pos_emb_type: null
  - block_type: transformer
    attn_head_dims: 16
    attn_num_heads: 2
    attn_use_rot_embs: true
    attn_dropout: 0.0
    ff_multiplier: 2
    ff_dropout: 0.0
    use_flash_attn: false
    pos_emb_type: fixed
  - block_type: lstm
    pos_emb_type: null
    hidden: 8
    bias: true
";
    assert!(yaml.contains(blocks), "{yaml}");
    let json = serde_json::to_string(&experiment.params.architecture).unwrap();
    assert!(
        json.ends_with(r#"{"block_type":"lstm","pos_emb_type":null,"hidden":8,"bias":true}]}"#),
        "{json}"
    );
}

#[test]
fn a_configuration_made_in_code_is_the_one_that_is_read() {
    let made = ModelConfig::new([16, 8])
        .dims([32, 32])
        .layers([2, 2])
        .block(0, Mamba2::new(16, 16))
        .block(1, Transformer::new(2, 16).pos_emb_type(PositionEmbedding::Fixed));
    assert_eq!(*read(&[]).unwrap().params.architecture.model(), made);
    let error = made
        .block(2, Transformer::default())
        .validate()
        .unwrap_err()
        .to_string();
    assert!(error.contains("one per stage, found a list of 3"), "{error}");
}

#[test]
fn overrides_reach_maps_lists_and_absent_keys() {
    let experiment = read(&[
        "train.learning_rate=3e-4",
        "params.seq_lens.0=1_28",
        "params.block.0.d_state=8",
        "train.max_eval_steps=5",
        "io.dataset_args.held_out=0.5",
        "io.description=a=b",
        "train.batch_size=4",
        "train.batch_size=8",
    ])
    .unwrap();
    assert_eq!((experiment.train.lr, experiment.train.max_eval_steps), (3e-4, Some(5)));
    assert_eq!(experiment.params.architecture.model().seq_lens, [128, 8]);
    assert_eq!(experiment.io.dataset_args.unwrap()["held_out"], 0.5);
    assert_eq!(experiment.io.description.as_deref(), Some("a=b"));
    assert_eq!(experiment.train.batch_size, 8);
    let resumed = read(&[
        "resume=null",
        "resume.checkpoint_file=a.pth",
        "resume.next_epoch_index=0",
        "resume.next_batch_index=3",
    ]);
    assert_eq!(resumed.unwrap().resume.unwrap().next_batch_index, 3);
}

#[test]
fn bad_overrides_say_what_is_wrong() {
    assert_eq!(
        override_message("train.learning_rat=1"),
        "unknown key \"learning_rat\" in train; did you mean \"learning_rate\"?"
    );
    assert_eq!(
        override_message("trian.seed=1"),
        "unknown key \"trian\"; did you mean \"train\"?"
    );
    assert_eq!(
        override_message("train.seed"),
        "expected KEY=VALUE, as in train.learning_rate=3e-4"
    );
    assert_eq!(
        override_message("params.seq_lens.2=1"),
        "params.seq_lens: expected an index below 2, the length of this list, found \"2\""
    );
    assert_eq!(
        override_message("train.seed.x.y=1"),
        "train.seed: expected an integer of at least 0, found a map"
    );
    assert_eq!(
        override_message("train.batch_size.x=1"),
        "train.batch_size: is neither a map nor a list, so it has no \"x\""
    );
    assert_eq!(
        override_message("train..seed=1"),
        "train: expected names with single dots between them, found an empty name"
    );
    let deep = format!("io.dataset_args{}=1", ".a".repeat(50_000));
    assert_eq!(
        override_message(&deep),
        "expected a path of at most 64 names, found more"
    );
    assert!(override_message("train.seed=[1").starts_with("not valid YAML: "));
    assert_eq!(
        override_message("train.batch_size=0"),
        "train.batch_size: expected at least 1, found 0"
    );
}

#[test]
fn misspelt_keys_name_line_and_nearest_key() {
    assert_eq!(
        message("learning_rate", "learning_rat"),
        "my.yaml:32:3: unknown key \"learning_rat\" in train; did you mean \"learning_rate\"?"
    );
    assert_eq!(
        message("params:", "parms:"),
        "my.yaml:11:1: unknown key \"parms\"; did you mean \"params\"?"
    );
    assert_eq!(
        message("input_seq_len", "input_sequence_len"),
        "my.yaml:12:3: unknown key \"input_sequence_len\" in params; did you mean \"input_seq_len\"?"
    );
    assert_eq!(
        message("headdim", "head_dim"),
        "my.yaml:23:7: unknown key \"head_dim\" in params.block.0; did you mean \"headdim\"?"
    );
    assert_eq!(
        message("    - d_state: 1_6", "    - block_typ: mamba2\n      d_state: 1_6"),
        "my.yaml:20:7: unknown key \"block_typ\" in params.block.0; did you mean \"block_type\"?"
    );
    assert_eq!(
        message("  block:", "  blok:"),
        "my.yaml:19:3: unknown key \"blok\" in params; did you mean \"block\"?"
    );
    assert_eq!(
        message("dataset_id: bytes", "frobnicate: 1"),
        "my.yaml:6:3: unknown key \"frobnicate\" in io; known are: name_model, output_dir, dataset_dir, dataset_id, \
         dataset_args, num_models_to_save, validate_amount, log_train_loss_amount, enabled_loss_log_for_gpus, description"
    );
}

#[test]
fn numbers_are_read_in_every_spelling_of_the_package() {
    let elements = |written: &str| {
        let text = TWO_STAGES.replacen("7_000_000", written, 1);
        read_text(&text, &[]).unwrap().train.target_elements
    };
    for (written, value) in [
        ("7e6", 7_000_000),
        ("7.0e+6", 7_000_000),
        ("7000000.0", 7_000_000),
        ("\"7000000\"", 7_000_000),
        ("'7_000_000'", 7_000_000),
        ("\"7e6\"", 7_000_000),
        ("01000", 512),
        ("0x1000", 4096),
    ] {
        assert_eq!(elements(written), value, "{written}");
    }
    assert_eq!(
        read(&["train.target_elements=1e6"]).unwrap().train.target_elements,
        1_000_000
    );
    assert_eq!(read(&["train.learning_rate=\"3e-3\""]).unwrap().train.lr, 3e-3);
    assert!(read(&["train.shuffle_train=yes"]).unwrap().train.shuffle_train);
    assert!(!read(&["train.shuffle_train=Off"]).unwrap().train.shuffle_train);
    assert!(read(&["train.target_elements=1.5e0"]).is_err());
    assert!(read(&["train.learning_rate=fast"]).is_err());
}

#[test]
fn keys_that_only_hold_anchors_are_passed_over() {
    let text = format!("x-common: &width [32, 32]\n.more: {{ a: 1 }}\n{TWO_STAGES}");
    let text = text.replacen("hidden_dims: [32, 32]", "hidden_dims: *width", 1);
    assert_eq!(
        read_text(&text, &[]).unwrap().params.architecture.model().hidden_dims,
        [32, 32]
    );
    assert!(read_text(&format!("common: 1\n{TWO_STAGES}"), &[]).is_err());
}

#[test]
fn missing_and_mistyped_values_are_located() {
    assert_eq!(
        message("  batch_size: 2\n", ""),
        "my.yaml:29:3: missing key \"batch_size\" in train; it has no default"
    );
    assert_eq!(
        message("batch_size: 2", "batch_size: two"),
        "my.yaml:31:15: train.batch_size: expected an integer of at least 0, found the text \"two\""
    );
    assert_eq!(
        message("batch_size: 2", "batch_size: -2"),
        "my.yaml:31:15: train.batch_size: expected an integer of at least 0, found -2"
    );
    assert_eq!(
        message("batch_size: 2", "batch_size:"),
        "my.yaml:31:13: train.batch_size: expected an integer of at least 0, found nothing (null)"
    );
    assert_eq!(
        message("7_000_000", "7.5"),
        "my.yaml:29:20: train.target_elements: expected an integer of at least 0, found the decimal number 7.5"
    );
    assert_eq!(
        message("[1_6, 8]", "[16, eight]"),
        "my.yaml:17:18: params.seq_lens.1: expected an integer of at least 0, found the text \"eight\""
    );
    assert_eq!(
        message("strategy: sequence", "strategy: sequences"),
        "my.yaml:30:29: train.target_elements_strategy: expected one of batch, sequence, found \"sequences\"; did you \
         mean \"sequence\"?"
    );
    assert_eq!(
        message("pos_emb_type: fixed", "pos_emb_type: [fixed]"),
        "my.yaml:27:21: params.block.1.pos_emb_type: expected a name, found a list"
    );
    assert!(message("pad_token_id: 256", "pad_token_id: 99999999999").contains("found 99999999999"));
    assert_eq!(
        read_text("", &[]).unwrap_err().to_string(),
        "my.yaml:1:1: expected a map of keys, found nothing (null)"
    );
    assert!(
        read_text("[1, 2]", &[])
            .unwrap_err()
            .to_string()
            .contains("expected a map of keys, found a list")
    );
}

#[test]
fn stages_are_counted_before_their_block_is_copied() {
    let options: String = (0..20_000).map(|key| format!("k{key}: {key}, ")).collect();
    let ones = vec!["1"; 100_000].join(", ");
    let text = TWO_STAGES
        .replace("hidden_dims: [32, 32]", &format!("hidden_dims: [{ones}]"))
        .replace("  block:\n", &format!("  block: {{block_type: lstm, {options}}}\n"));
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with("    "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let message = read_text(&text, &[]).unwrap_err().to_string();
    assert!(
        message.contains("params.hidden_dims: expected at most 64 stages, found 100000"),
        "{message}"
    );
}

#[test]
fn broken_yaml_is_located() {
    assert_eq!(
        message("batch_size: 2", "batch_size: *two"),
        "my.yaml:31:15: not valid YAML: reference to unknown value"
    );
    assert!(message("  output_dir: runs", "  output_dir: [runs").starts_with("my.yaml:"));
    assert!(message("batch_size: 2", "batch_size: 2\n  batch_size: 3").starts_with("my.yaml:32:3: not valid YAML: "));
    let deep = format!("a: {}", "[".repeat(10_000));
    assert!(
        read_text(&deep, &[])
            .unwrap_err()
            .to_string()
            .contains("not valid YAML")
    );
}

#[test]
fn a_block_without_a_type_must_have_telling_keys() {
    let neither = message(
        "    - d_state: 1_6\n      d_conv: 4\n      expand: 2\n      headdim: 16",
        "    - layers: 3",
    );
    assert!(
        neither.starts_with("my.yaml:20:7: params.block.0: expected a block"),
        "{neither}"
    );
    assert!(neither.ends_with("found the keys [layers]"), "{neither}");
    let both = message("d_conv: 4", "attn_head_dims: 4");
    assert!(
        both.contains("found the keys [d_state, attn_head_dims, expand, headdim]"),
        "{both}"
    );
}

#[test]
fn files_that_are_no_configuration_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let of = |path: &Path| Experiment::from_file(path, &[]).unwrap_err().to_string();
    assert!(of(folder.path()).contains("expected a YAML file, found a folder"));
    let path = folder.path().join("my.yaml");
    assert!(of(&path).starts_with(&path.display().to_string()));
    std::fs::write(&path, b"io:\n  \xff\xfe").unwrap();
    assert!(of(&path).contains("expected YAML in UTF-8, found other bytes at offset 6"));
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(of(&path).contains("expected a configuration of at most 1048576 bytes"));
    std::fs::write(&path, TWO_STAGES).unwrap();
    assert_eq!(Experiment::from_file(&path, &[]).unwrap(), read(&[]).unwrap());
}

#[test]
fn stages_must_agree() {
    assert_eq!(
        message("num_layers: [2, 2]", "num_layers: [2, 2, 2]"),
        "my.yaml:15:16: params.hidden_dims: expected one entry per stage in each of hidden_dims, num_layers and seq_lens, \
         found 2, 3 and 2; make the three lists equally long"
    );
    let none = ["params.hidden_dims=[]", "params.num_layers=[]", "params.seq_lens=[]"];
    assert!(
        read(&none)
            .unwrap_err()
            .to_string()
            .contains("expected at least one stage, found none")
    );
    let three = [
        "params.hidden_dims=[2,2,2]",
        "params.num_layers=[2,2,2]",
        "params.seq_lens=[2,2,2]",
    ];
    assert_eq!(
        read(&three).unwrap_err().to_string(),
        "my.yaml:20:5: params.block: expected one block for all stages or a list of 3, one per stage, found a list of 2"
    );
    for key in ["hidden_dims", "num_layers", "seq_lens"] {
        let expected = format!("params.{key}.1: expected at least 1, found 0");
        assert_eq!(override_message(&format!("params.{key}.1=0")), expected);
    }
    assert_eq!(
        override_message("params.train_checkpoint_chunks=[2,2]"),
        "params.train_checkpoint_chunks: expected null or 1 numbers, one for each stage after the first, found 2"
    );
    assert_eq!(
        override_message("params.train_checkpoint_chunks=[0]"),
        "params.train_checkpoint_chunks.0: expected at least 1, found 0"
    );
}

#[test]
fn sizes_must_be_countable() {
    let huge = "9_000_000_000_000_000_000";
    let context = override_message(&format!("params.seq_lens=[{huge}, 8]"));
    assert!(
        context.starts_with("params.seq_lens: the context, the product of"),
        "{context}"
    );
    assert!(context.ends_with("make the stages shorter"));
    let patch = override_message("params.hidden_dims=[32, 9_000_000_000_000_000_000]");
    assert!(
        patch.starts_with("params.hidden_dims: a patch of stage 0 is wider than can be counted"),
        "{patch}"
    );
    let heads = override_message(&format!("params.block.1.attn_num_heads={huge}"));
    assert!(heads.contains("attn_num_heads × attn_head_dims"), "{heads}");
    assert!(override_message(&format!("params.block.1.ff_multiplier={huge}")).contains("ff_multiplier × hidden dim"));
    assert!(override_message(&format!("params.block.0.expand={huge}")).contains("expand × hidden dim"));
    let parameters = message("d_state: 1_6", &format!("d_state: {huge}"));
    assert_eq!(
        parameters,
        "my.yaml:15:16: params.hidden_dims: the parameters, four bytes each, are beyond what memory can address; make the \
         model smaller"
    );
}

#[test]
fn ids_must_be_in_the_vocabulary() {
    assert_eq!(
        override_message("params.num_tokens=0"),
        "params.num_tokens: expected at least 1, found 0"
    );
    assert_eq!(
        message("pad_token_id: 256", "pad_token_id: 257"),
        "my.yaml:14:17: params.pad_token_id: expected an id below num_tokens = 257, found 257; raise num_tokens to at \
         least 258"
    );
    assert!(
        override_message("params.num_tokens=5_000_000_000")
            .contains("expected at most 4294967295, as ids have 32 bits")
    );
    let masked = read_text(&encoder(), &["params.mask_token_id=300"])
        .unwrap_err()
        .to_string();
    assert!(
        masked.contains("params.mask_token_id: expected an id below num_tokens = 257, found 300"),
        "{masked}"
    );
    let padded = read_text(&encoder(), &["params.mblm_config.pad_token_id=300"])
        .unwrap_err()
        .to_string();
    assert!(
        padded.contains("params.mblm_config.pad_token_id: expected an id below"),
        "{padded}"
    );
}

#[test]
fn blocks_must_fit_their_stage() {
    let of = |setting: &str| override_message(&format!("params.block.{setting}"));
    for key in [
        "1.attn_head_dims",
        "1.attn_num_heads",
        "1.ff_multiplier",
        "0.d_state",
        "0.d_conv",
        "0.expand",
        "0.headdim",
    ] {
        assert_eq!(
            of(&format!("{key}=0")),
            format!("params.block.{key}: expected at least 1, found 0")
        );
    }
    assert_eq!(
        of("0.headdim=24"),
        "params.block.0.headdim: expected a divisor of expand × hidden dim = 2 × 32 = 64, found 24; try 16"
    );
    assert_eq!(
        of("1.attn_head_dims=15"),
        "params.block.1.attn_head_dims: expected an even head width for rotary embeddings, which turn pairs of channels, \
         found 15; make it even or set attn_use_rot_embs to false"
    );
    let odd = ["params.hidden_dims=[32, 33]", "params.block.1.pos_emb_type=rope"];
    assert_eq!(
        read(&odd).unwrap_err().to_string(),
        "--set params.block.1.pos_emb_type=rope: params.block.1.pos_emb_type: expected an even hidden dim for rope, which \
         turns pairs of channels, found 33; make it even or use fixed"
    );
    for (key, value) in [
        ("0.dropout", "1.0"),
        ("1.attn_dropout", "-0.1"),
        ("1.ff_dropout", "1.5"),
    ] {
        let message = of(&format!("{key}={value}"));
        assert!(
            message.starts_with(&format!("params.block.{key}: expected a probability in [0, 1), found")),
            "{message}"
        );
    }
    let mamba1 = "params.block.0={block_type: mamba1, d_state: 4, d_conv: 2, expand: 1, headdim: 7, dropout: 3}";
    assert_eq!(
        read(&[mamba1]).unwrap().params.architecture.model().block[0].block_type(),
        "mamba1"
    );
}

#[test]
fn decoders_are_causal_and_encoders_are_not() {
    assert_eq!(
        override_message("params.block.1.block_type=transformerEncoder"),
        "params.block.1.block_type: expected a causal block in a decoder, found transformerEncoder, which would see the \
         bytes it predicts; use transformer, or wrap the model's keys in mblm_config for an encoder"
    );
    let causal = read_text(&encoder(), &["params.mblm_config.block.block_type=transformer"])
        .unwrap_err()
        .to_string();
    assert!(
        causal.ends_with(
            "params.mblm_config.block.0.block_type: expected transformerEncoder in an encoder, whose blocks see both \
             ways, found transformer"
        ),
        "{causal}"
    );
}

#[test]
fn inputs_must_fit_a_fixed_table() {
    assert_eq!(
        override_message("params.input_seq_len=0"),
        "params.input_seq_len: expected at least 2 bytes per sample, each predicted from those before it, found 0"
    );
    assert_eq!(
        override_message("params.input_seq_len=1"),
        "params.input_seq_len: expected at least 2 bytes per sample, each predicted from those before it, found 1"
    );
    assert!(read(&["params.input_seq_len=2"]).is_ok());
    let longer = ["params.input_seq_len=129", "params.block.0.pos_emb_type=fixed"];
    assert_eq!(
        read(&longer).unwrap_err().to_string(),
        "--set params.input_seq_len=129: params.input_seq_len: expected at most 16 · 8 = 128 bytes, as the first stage's \
         fixed position table has one row per patch, found 129; lower it, raise seq_lens, or set the first block's \
         pos_emb_type to rope or null"
    );
    assert_eq!(read(&["params.input_seq_len=129"]).unwrap().params.input_seq_len, 129);
    assert!(read(&["params.input_seq_len=128", "params.block.0.pos_emb_type=fixed"]).is_ok());
}

#[test]
fn training_numbers_must_make_sense() {
    for key in ["batch_size", "gradient_accumulate_every"] {
        assert_eq!(
            override_message(&format!("train.{key}=0")),
            format!("train.{key}: expected at least 1, found 0")
        );
    }
    for key in ["max_eval_steps", "save_state_every"] {
        let message = override_message(&format!("train.{key}=0"));
        assert!(
            message.starts_with(&format!("train.{key}: expected at least 1, or null")),
            "{message}"
        );
    }
    assert_eq!(
        override_message("train.learning_rate=-1"),
        "train.learning_rate: expected a finite number of at least 0, found -1"
    );
    assert!(
        override_message("train.gradient_clipping=0")
            .contains("a finite norm above 0, or null for no clipping, found 0")
    );
    assert!(
        override_message("train.warmup_steps_perc=10")
            .contains("expected a share in [0, 1], not a percentage, found 10")
    );
    assert!(override_message("train.masking_proba=1.1").contains("expected a probability in [0, 1], found 1.1"));
    assert!(override_message("train.weight_decay=-1").contains("expected a finite number of at least 0, found -1"));
    assert_eq!(
        override_message("train.weight_decay=0.1"),
        "train.weight_decay: expected 0 for adam, found 0.1; set optimizer: adamw"
    );
    assert_eq!(
        override_message("train.target_elements=255"),
        "train.target_elements: expected at least one batch, 256 elements, found 255; raise it or lower batch_size or \
         params.input_seq_len"
    );
    assert!(
        read(&[
            "train.target_elements=2",
            "train.target_elements_strategy=batch",
            "train.gradient_accumulate_every=1"
        ])
        .is_ok()
    );
    assert_eq!(
        override_message("train.gradient_accumulate_every=30_000"),
        "train.gradient_accumulate_every: expected at most 27344, the batches in target_elements, found 30000: no \
         gradient step would be taken; lower it or raise target_elements"
    );
    let mut experiment = read(&[]).unwrap();
    experiment.train.lr = f64::NAN;
    let message = experiment.validate().unwrap_err().to_string();
    assert_eq!(
        message,
        "train.learning_rate: expected a finite number of at least 0, found NaN"
    );
    let unmasked = encoder().replace("  masking_proba: 0.15\n", "");
    let message = read_text(&unmasked, &[]).unwrap_err().to_string();
    assert!(
        message.ends_with(
            "train.masking_proba: missing, but an encoder is trained on masked bytes; try masking_proba: 0.15"
        )
    );
}

#[test]
fn texts_that_name_things_must_not_be_empty() {
    for key in ["name_model", "output_dir", "dataset_dir", "dataset_id"] {
        let message = override_message(&format!("io.{key}=\"\""));
        assert!(
            message.starts_with(&format!("io.{key}: expected ")) && message.ends_with("found an empty text"),
            "{message}"
        );
    }
}

proptest! {
    /// For any text and override, reading ends with a configuration or a message.
    #[test]
    fn nothing_panics(text in any::<String>(), key in "[a-z_.0-9]{0,12}", value in any::<String>()) {
        let _ = read_text(&text, &[]);
        let _ = read(&[&format!("{key}={value}")]);
    }

    /// For a configuration with one character replaced, reading ends with a message or a valid
    /// configuration.
    #[test]
    fn damaged_files_are_refused_or_valid(at in 0..TWO_STAGES.len(), with in any::<char>()) {
        let mut text = TWO_STAGES.to_string();
        text.replace_range(at..=at, with.encode_utf8(&mut [0; 4]));
        if let Ok(experiment) = read_text(&text, &[]) {
            let yaml = experiment.to_yaml_string().unwrap();
            prop_assert_eq!(read_text(&yaml, &[]).unwrap(), experiment);
        }
    }
}

#[test]
fn what_the_package_reads_as_a_text_is_one() {
    for name in ["y", "n", "1e3", "08", "0o7"] {
        let text = TWO_STAGES.replacen("name_model: ", &format!("name_model: {name} #"), 1);
        let experiment = read_text(&text, &[]).unwrap();
        assert_eq!(experiment.io.name_model, name);
        let set = format!("io.name_model={name}");
        assert_eq!(read(&[&set]).unwrap().io.name_model, name);
    }
    for name in ["123", "on", "1.5", "0x10"] {
        let message = read(&[&format!("io.name_model={name}")]).unwrap_err().to_string();
        assert!(
            message.contains("io.name_model: expected a string, found "),
            "{message}"
        );
    }
    assert_eq!(read(&["train.learning_rate=1e-3"]).unwrap().train.lr, 1e-3);
}

#[test]
fn keys_that_hold_anchors_are_passed_over() {
    let (before, rest) = TWO_STAGES.split_once("train:").unwrap();
    let with = |more: &str| read_text(&format!("{more}\n{before}train:{rest}"), &[]);
    for more in [
        "common: &c {a: 1}",
        "shared:\n  a: &a 1\n  b: &b [1, 2]",
        "x-c: 1",
        ".c: &c 1",
    ] {
        assert!(with(more).is_ok(), "{more}: {:?}", with(more));
    }
    for more in ["common: {a: 1}", "shared:\n  a: &a 1\n  b: 2"] {
        assert!(with(more).unwrap_err().to_string().contains("unknown key"), "{more}");
    }
    // a known key stays, with or without an anchor
    let anchored = TWO_STAGES.replacen("train:", "train: &t", 1);
    assert!(read_text(&anchored, &[]).is_ok());
    // a misspelled key below is still found
    let misspelt = TWO_STAGES.replacen("learning_rate:", "learning_rte: &l", 1);
    assert!(
        read_text(&misspelt, &[])
            .unwrap_err()
            .to_string()
            .contains("learning_rate")
    );
}
