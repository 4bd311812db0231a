//! Programs: CLEVR's functions and their results on a scene.
//!
//! A program is a list of steps. Each step applies a function to the results of earlier steps; the
//! last step gives the answer.
//!
//! | function | takes | gives |
//! |---|---|---|
//! | scene | | all objects |
//! | filter_A v | objects | those whose attribute A is v |
//! | unique | objects | the only one; fails for none or several |
//! | relate d | object | the objects in direction d from it |
//! | same_A | object | the other objects with its value of A |
//! | union, intersect | objects, objects | the objects in either, in both |
//! | count, exist | objects | their number; whether there are any |
//! | query_A | object | its value of A |
//! | equal_A | value, value | whether they are equal |
//! | equal_integer, less_than, greater_than | number, number | the result of the comparison |

use super::attributes::{Attribute, Direction, Value};
use super::scene::{Graph, Objects};

/// The function of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// All objects.
    Scene,
    /// The objects with this value.
    Filter(Value),
    /// The only object.
    Unique,
    /// The objects in a direction.
    Relate(Direction),
    /// The other objects with the same value of an attribute.
    Same(Attribute),
    /// The objects in either set.
    Union,
    /// The objects in both sets.
    Intersect,
    /// The number of objects.
    Count,
    /// Whether there are any.
    Exist,
    /// An object's value.
    Query(Attribute),
    /// Whether two values of an attribute are equal.
    Equal(Attribute),
    /// Whether two numbers are equal.
    EqualInteger,
    /// Whether the first number is less.
    LessThan,
    /// Whether the first number is greater.
    GreaterThan,
}

impl Function {
    /// Returns the name and the argument in CLEVR's JSON.
    pub fn name(self) -> (String, Option<&'static str>) {
        let plain = |name: &str| (name.to_string(), None);
        match self {
            Self::Scene => plain("scene"),
            Self::Filter(value) => (format!("filter_{}", value.attribute.name()), Some(value.name())),
            Self::Unique => plain("unique"),
            Self::Relate(direction) => ("relate".to_string(), Some(direction.name())),
            Self::Same(attribute) => (format!("same_{}", attribute.name()), None),
            Self::Union => plain("union"),
            Self::Intersect => plain("intersect"),
            Self::Count => plain("count"),
            Self::Exist => plain("exist"),
            Self::Query(attribute) => (format!("query_{}", attribute.name()), None),
            Self::Equal(attribute) => (format!("equal_{}", attribute.name()), None),
            Self::EqualInteger => plain("equal_integer"),
            Self::LessThan => plain("less_than"),
            Self::GreaterThan => plain("greater_than"),
        }
    }

    /// Returns the function with a name and an argument, if there is one.
    pub fn parse(name: &str, argument: Option<&str>) -> Option<Self> {
        let attribute = |name: &str| Attribute::ALL.into_iter().find(|attribute| attribute.name() == name);
        let direction = |name: &str| Direction::ALL.into_iter().find(|direction| direction.name() == name);
        match (name, name.split_once('_'), argument) {
            ("scene", _, None) => Some(Self::Scene),
            ("unique", _, None) => Some(Self::Unique),
            ("relate", _, Some(argument)) => direction(argument).map(Self::Relate),
            ("union", _, None) => Some(Self::Union),
            ("intersect", _, None) => Some(Self::Intersect),
            ("count", _, None) => Some(Self::Count),
            ("exist", _, None) => Some(Self::Exist),
            ("equal_integer", _, None) => Some(Self::EqualInteger),
            ("less_than", _, None) => Some(Self::LessThan),
            ("greater_than", _, None) => Some(Self::GreaterThan),
            (_, Some(("filter", of)), Some(argument)) => attribute(of)?.value(argument).map(Self::Filter),
            (_, Some(("same", of)), None) => attribute(of).map(Self::Same),
            (_, Some(("query", of)), None) => attribute(of).map(Self::Query),
            (_, Some(("equal", of)), None) => attribute(of).map(Self::Equal),
            _ => None,
        }
    }

    /// Returns the number of inputs.
    pub fn arity(self) -> usize {
        match self {
            Self::Scene => 0,
            Self::Union | Self::Intersect => 2,
            Self::Equal(_) | Self::EqualInteger | Self::LessThan | Self::GreaterThan => 2,
            _ => 1,
        }
    }

    /// Applies the function; returns None if the inputs have wrong types or no object is unique.
    fn apply(self, graph: &Graph, first: Option<Outcome>, second: Option<Outcome>) -> Option<Outcome> {
        use Outcome::{Number, Object, Set, Truth, Worth};
        Some(match (self, first, second) {
            (Self::Scene, None, None) => Set(graph.all()),
            (Self::Filter(value), Some(Set(set)), None) => Set(set & graph.having(value)),
            (Self::Unique, Some(Set(set)), None) if set.count_ones() == 1 => Object(set.trailing_zeros() as usize),
            (Self::Relate(direction), Some(Object(object)), None) => Set(graph.related(direction, object)),
            (Self::Same(attribute), Some(Object(object)), None) => Set(graph.same(attribute, object)),
            (Self::Union, Some(Set(one)), Some(Set(other))) => Set(one | other),
            (Self::Intersect, Some(Set(one)), Some(Set(other))) => Set(one & other),
            (Self::Count, Some(Set(set)), None) => Number(set.count_ones()),
            (Self::Exist, Some(Set(set)), None) => Truth(set != 0),
            (Self::Query(attribute), Some(Object(object)), None) => Worth(graph.look(object).value(attribute)),
            (Self::Equal(attribute), Some(Worth(one)), Some(Worth(other)))
                if one.attribute == attribute && other.attribute == attribute =>
            {
                Truth(one == other)
            }
            (Self::EqualInteger, Some(Number(one)), Some(Number(other))) => Truth(one == other),
            (Self::LessThan, Some(Number(one)), Some(Number(other))) => Truth(one < other),
            (Self::GreaterThan, Some(Number(one)), Some(Number(other))) => Truth(one > other),
            _ => return None,
        })
    }
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Set(Objects),
    Object(usize),
    Number(u32),
    Truth(bool),
    Worth(Value),
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Yes or no.
    Truth(bool),
    /// 0…10.
    Number(u32),
    /// A value of an attribute.
    Value(Value),
}

impl Answer {
    /// Returns the answer as CLEVR writes it.
    pub fn name(self) -> String {
        match self {
            Self::Truth(true) => "yes".to_string(),
            Self::Truth(false) => "no".to_string(),
            Self::Number(number) => number.to_string(),
            Self::Value(value) => value.name().to_string(),
        }
    }
}

/// A function and the numbers of the steps whose results are its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    function: Function,
    inputs: [usize; 2],
}

impl Step {
    /// Returns its function.
    pub fn function(&self) -> Function {
        self.function
    }

    /// Returns the numbers of its input steps.
    pub fn inputs(&self) -> &[usize] {
        &self.inputs[..self.function.arity()]
    }
}

/// A program under construction: each step is executed when it is added.
#[derive(Clone)]
pub(super) struct Execution<'a> {
    pub(super) graph: &'a Graph,
    steps: Vec<Step>,
    outcomes: Vec<Outcome>,
}

impl<'a> Execution<'a> {
    pub(super) fn new(graph: &'a Graph) -> Self {
        Self {
            graph,
            steps: Vec::with_capacity(24),
            outcomes: Vec::with_capacity(24),
        }
    }

    /// Adds a step and returns its number; returns None, without adding it, if it has no result.
    pub(super) fn add(&mut self, function: Function, inputs: &[usize]) -> Option<usize> {
        if inputs.len() != function.arity() {
            return None;
        }
        let result = |place: usize| match inputs.get(place) {
            Some(input) => self.outcomes.get(*input).copied().map(Some),
            None => Some(None),
        };
        let outcome = function.apply(self.graph, result(0)?, result(1)?)?;
        let input = |place: usize| inputs.get(place).copied().unwrap_or(0);
        self.steps.push(Step {
            function,
            inputs: [input(0), input(1)],
        });
        self.outcomes.push(outcome);
        Some(self.steps.len() - 1)
    }

    pub(super) fn outcome(&self, step: usize) -> Outcome {
        self.outcomes[step]
    }

    /// Returns the set that a step gave; empty for another type of result.
    pub(super) fn set(&self, step: usize) -> Objects {
        match self.outcomes[step] {
            Outcome::Set(set) => set,
            _ => 0,
        }
    }

    /// Returns the result of the last step, if it is an answer.
    pub(super) fn answer(&self) -> Option<Answer> {
        match self.outcomes.last()? {
            Outcome::Truth(truth) => Some(Answer::Truth(*truth)),
            Outcome::Number(number) => Some(Answer::Number(*number)),
            Outcome::Worth(value) => Some(Answer::Value(*value)),
            Outcome::Set(_) | Outcome::Object(_) => None,
        }
    }

    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

/// Executes a program of functions with the numbers of their input steps. Returns None if a step
/// has no result: wrong inputs, `unique` of none or several, or a last step without an answer.
pub fn execute<'a>(graph: &Graph, steps: impl IntoIterator<Item = (Function, &'a [usize])>) -> Option<Answer> {
    let mut execution = Execution::new(graph);
    for (function, inputs) in steps {
        execution.add(function, inputs)?;
    }
    execution.answer()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns four objects in a row from left to right, each farther behind than the previous one.
    fn graph() -> Graph {
        let looks = [
            ["large", "red", "metal", "cube"],
            ["small", "red", "rubber", "sphere"],
            ["small", "blue", "metal", "cylinder"],
            ["large", "gray", "metal", "cube"],
        ];
        let before: Vec<Vec<usize>> = (0..4).map(|object| (0..object).collect()).collect();
        let after: Vec<Vec<usize>> = (0..4).map(|object| (object + 1..4).collect()).collect();
        Graph::from_parts(&looks, [&before, &after, &before, &after]).unwrap()
    }

    /// Returns the answer to steps such as `filter_color red 0`: the function, its argument if any,
    /// its inputs.
    fn answer(program: &str) -> Option<String> {
        let steps: Vec<(Function, Vec<usize>)> = program
            .split(';')
            .map(|step| {
                let (inputs, words): (Vec<&str>, Vec<&str>) =
                    step.split_whitespace().partition(|word| word.parse::<usize>().is_ok());
                let function = Function::parse(words[0], words.get(1).copied()).unwrap_or_else(|| panic!("{step}"));
                assert_eq!(function.name(), (words[0].to_string(), words.get(1).copied()));
                (function, inputs.iter().map(|input| input.parse().unwrap()).collect())
            })
            .collect();
        execute(
            &graph(),
            steps.iter().map(|(function, inputs)| (*function, &inputs[..])),
        )
        .map(Answer::name)
    }

    #[track_caller]
    fn check(program: &str, expected: &str) {
        assert_eq!(answer(program).as_deref(), Some(expected), "{program}");
    }

    #[test]
    fn every_function_gives_what_its_name_says() {
        check("scene; count 0", "4");
        check("scene; filter_color red 0; count 1", "2");
        check("scene; filter_size small 0; filter_shape sphere 1; count 2", "1");
        check("scene; filter_material metal 0; filter_size large 1; count 2", "2");
        check("scene; filter_color yellow 0; exist 1", "no");
        check("scene; filter_color gray 0; exist 1", "yes");
        let blue = "scene; filter_color blue 0; unique 1";
        for (direction, left) in [("left", "2"), ("right", "1"), ("front", "2"), ("behind", "1")] {
            check(&format!("{blue}; relate {direction} 2; count 3"), left);
        }
        for (attribute, others) in [("size", "1"), ("color", "0"), ("material", "2"), ("shape", "0")] {
            check(&format!("{blue}; same_{attribute} 2; count 3"), others);
        }
        for (attribute, value) in [
            ("size", "small"),
            ("color", "blue"),
            ("material", "metal"),
            ("shape", "cylinder"),
        ] {
            check(&format!("{blue}; query_{attribute} 2"), value);
        }
        let two = "scene; filter_color red 0; scene; filter_shape cube 2";
        check(&format!("{two}; union 1 3; count 4"), "3");
        check(&format!("{two}; intersect 1 3; count 4"), "1");
        let objects = "scene; filter_color blue 0; unique 1; scene; filter_color gray 3; unique 4";
        for (attribute, same) in [("size", "no"), ("color", "no"), ("material", "yes"), ("shape", "no")] {
            let queries = format!("query_{attribute} 2; query_{attribute} 5");
            check(&format!("{objects}; {queries}; equal_{attribute} 6 7"), same);
        }
        let numbers = "scene; count 0; scene; filter_color red 2; count 3";
        for (function, forth, back) in [
            ("equal_integer", "no", "no"),
            ("less_than", "no", "yes"),
            ("greater_than", "yes", "no"),
        ] {
            check(&format!("{numbers}; {function} 1 4"), forth);
            check(&format!("{numbers}; {function} 4 1"), back);
        }
        check(&format!("{numbers}; equal_integer 4 4"), "yes");
    }

    #[test]
    fn what_has_no_result_has_no_answer() {
        for program in [
            "scene",
            "scene; unique 0; query_color 1",
            "scene; filter_color yellow 0; unique 1; query_color 2",
            "scene; filter_color blue 0; unique 1",
            "scene; query_color 0",
            "scene; count 1",
            "scene; count",
            "count 0",
            "scene; union 0",
            "scene; filter_color blue 0; unique 1; query_color 2; query_size 2; equal_color 3 4",
        ] {
            assert_eq!(answer(program), None, "{program}");
        }
        for (name, argument) in [
            ("filter_color", None),
            ("filter_color", Some("cube")),
            ("relate", Some("above")),
            ("scene", Some("left")),
            ("query_weight", None),
            ("", None),
        ] {
            assert_eq!(Function::parse(name, argument), None, "{name} {argument:?}");
        }
    }

    #[test]
    fn graphs_of_impossible_parts_are_refused() {
        let look = ["large", "red", "metal", "cube"];
        let none: &[Vec<usize>] = &[vec![]];
        assert!(Graph::from_parts(&[look], [none; 4]).is_some());
        assert!(Graph::from_parts(&[look], [&[vec![1]], none, none, none]).is_none());
        assert!(Graph::from_parts(&[look, look], [none; 4]).is_none());
        assert!(Graph::from_parts(&[["large", "pink", "metal", "cube"]], [none; 4]).is_none());
        assert!(Graph::from_parts(&[look; 11], [&vec![vec![]; 11][..]; 4]).is_none());
    }
}
