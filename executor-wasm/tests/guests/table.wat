;; Grows a table until it is refused.
(module
  (table $table 1 funcref)
  (func (export "_start")
    (loop $again
      (br_if $again
        (i32.ne (table.grow $table (ref.null func) (i32.const 500000)) (i32.const -1))))
    (unreachable)))
