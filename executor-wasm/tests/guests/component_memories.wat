;; A command of two modules, each with a memory of 37.5 MiB.
(component
  (core module $other (memory 600))
  (core instance (instantiate $other))
  (core module $main (memory 600) (func (export "run") (result i32) (i32.const 0)))
  (core instance $main (instantiate $main))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))
