//! A table of measured choices from a stranger: it reads or is refused, what reads names kernels that its products may take, and is written
//! as something that reads to the same.
#![no_main]

use gridpoint_model::{ProductKernel, ProductTable};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(table) = ProductTable::from_json(bytes) else { return };
    assert_eq!(table.fits(table.device()), Ok(()));
    for (class, measurement) in table.entries() {
        assert_eq!(measurement.kernel.permits(*class, table.device()), Ok(()));
        assert_eq!(measurement.kernel.to_string().parse(), Ok(measurement.kernel));
        assert!(ProductKernel::all().any(|kernel| kernel == measurement.kernel));
    }
    let text = table.to_json();
    let again = ProductTable::from_json(text.as_bytes()).expect("what is written reads");
    // The last place of a time may differ.
    assert!(again.entries().map(|(class, one)| (class, one.kernel, one.rows)).eq(table.entries().map(|(class, one)| (class, one.kernel, one.rows))));
});
