//! Clients under some mutations of what honest servers say. A process of its own: memory is counted.

#[test]
fn no_client_fails() {
    for target in &fuzzing::clients::TARGETS {
        fuzzing::short_form(target, 20, 25);
    }
}
