(module
  (import "tepui_guest_v1" "message_send" (func $send (param i32 i32) (result i32)))
  (import "tepui_guest_v1" "message_receive" (func $receive (param i32 i32 i32 i32) (result i32)))
  (import "tepui_guest_v1" "store_get" (func $get (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "tepui_guest_v1" "store_put" (func $put (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "tepui_guest_v1" "report_progress" (func $progress (param f64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $must (param $fine i32) (if (i32.eqz (local.get $fine)) (then unreachable)))
  (func (export "_start") (local $n i32)
    ;; Answers with the value of the key it is told, ...
    (call $must (i32.eqz (call $receive (i32.const 60000) (i32.const 100) (i32.const 100) (i32.const 8))))
    (call $must (i32.eqz (call $get (i32.const 100) (i32.load (i32.const 8)) (i32.const 300) (i32.const 100) (i32.const 8) (i32.const 0))))
    (call $must (i32.eqz (call $send (i32.const 300) (i32.load (i32.const 8)))))
    ;; ... finds that nothing fits into the store, ...
    (call $must (i32.eq (call $put (i32.const 100) (i32.const 3) (i32.const 100) (i32.const 3) (i32.const 0) (i32.const 0)) (i32.const 5)))
    ;; ... and says often how far it is.
    (loop $on
      (drop (call $progress (f64.div (f64.convert_i32_u (local.get $n)) (f64.const 10000)) (i32.const 0) (i32.const 0)))
      (br_if $on (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 7000))))
    (call $must (i32.eqz (call $receive (i32.const 60000) (i32.const 100) (i32.const 100) (i32.const 8))))
    (drop (call $progress (f64.const 0.75) (i32.const 0) (i32.const 0)))))
