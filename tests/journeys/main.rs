//! The journeys: one scenario a test, named as in `tests/scenarios.txt`. One binary, so that it links once.

mod lab_itself;
