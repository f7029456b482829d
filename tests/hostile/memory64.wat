;; A memory of 64-bit addresses that wants all of them.
(module
  (memory i64 1)
  (func (export "_start")
    (loop $on
      (drop (memory.grow (i64.const 1048576)))
      (br $on))))
