;; Asks for 128 MiB from the beginning.
(module (memory (export "memory") 2048) (func (export "_start")))
