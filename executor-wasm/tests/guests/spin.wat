;; Computes without end and without a call.
(module (func (export "_start") (loop $again (br $again))))
