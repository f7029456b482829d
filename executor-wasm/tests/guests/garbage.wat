(module
  (type $pair (struct (field i64) (field i64)))
  (func (export "_start")
    (local $left i32)
    (local.set $left (i32.const 5000000))
    (loop $again
      (drop (struct.new $pair (i64.const 1) (i64.const 2)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))))
