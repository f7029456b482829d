;; Does not even get as far as its entrypoint.
(module
  (func $forever (loop $again (br $again)))
  (start $forever)
  (func (export "_start")))
