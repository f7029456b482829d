;; Has no `_start`, but a function to call that gives a status, and must be initialized first.
(module
  (global $ready (mut i32) (i32.const 40))
  (func (export "_initialize") (global.set $ready (i32.const 4)))
  (func (export "check") (result i32) (global.get $ready))
  (func (export "takes") (param i32)))
