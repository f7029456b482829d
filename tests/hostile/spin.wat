;; Computes without end.
(module (func (export "_start") (loop $on (br $on))))
