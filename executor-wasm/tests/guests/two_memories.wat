;; Each memory is within 64 MiB, both together are not.
(module
  (memory (export "memory") 600)
  (memory $other 600)
  (func (export "_start")))
