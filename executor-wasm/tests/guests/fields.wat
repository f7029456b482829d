;; A command that has the host keep fields of HTTP messages, a thousand of 100 KB; by itself it holds a page.
(component
  (import "wasi:http/types@0.2.0" (instance $http
    (export "fields" (type $fields (sub resource)))
    (type $error (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
    (export "header-error" (type $header-error (eq $error)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[method]fields.append" (func
      (param "self" (borrow $fields)) (param "name" string) (param "value" (list u8))
      (result (result (error $header-error)))))))
  (core module $libc
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (unreachable))
    (data (i32.const 16) "x"))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (core func $new (canon lower (func $http "[constructor]fields")))
  (core func $append (canon lower (func $http "[method]fields.append")
    (memory $memory) (realloc (core func $libc "realloc"))))
  (core module $main
    (import "libc" "memory" (memory 1))
    (import "http" "new" (func $new (result i32)))
    (import "http" "append" (func $append (param i32 i32 i32 i32 i32 i32)))
    (func (export "run") (result i32)
      (local $many i32) (local $fields i32) (local $values i32)
      (memory.fill (i32.const 1024) (i32.const 97) (i32.const 1000))
      (loop $next
        (local.set $fields (call $new))
        (local.set $values (i32.const 0))
        (loop $value
          (call $append (local.get $fields) (i32.const 16) (i32.const 1) (i32.const 1024) (i32.const 1000) (i32.const 0))
          (local.set $values (i32.add (local.get $values) (i32.const 1)))
          (br_if $value (i32.lt_u (local.get $values) (i32.const 100))))
        (local.set $many (i32.add (local.get $many) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $many) (i32.const 1000))))
      (i32.const 0)))
  (core instance $main (instantiate $main
    (with "libc" (instance $libc))
    (with "http" (instance (export "new" (func $new)) (export "append" (func $append))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))
