;; Takes memory, and between asks for a table of a size that overflows.
(module
  (memory 1)
  (table $table i64 1 funcref)
  (func (export "_start")
    (loop $again
      (drop (table.grow $table (ref.null func) (i64.const -1)))
      (br_if $again (i32.ne (memory.grow (i32.const 160)) (i32.const -1))))
    (unreachable)))
