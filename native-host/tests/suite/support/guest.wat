;; A guest that does on request what a gateway never should, to see that its host survives it. What it does is written in the
;; request's path; the steps that it answers with are spliced in by the test, which has the codec.
(module
  (memory (export "memory") 4)

  ;; 1024: the step that answers 200; 8192: one that reads a body; 16384: one that reads a body with another limit; 24576: one
  ;; that has a signature checked.
  (data (i32.const 1024) "{{RESPOND}}")
  (data (i32.const 8192) "{{READ}}")
  (data (i32.const 16384) "{{READ_OTHERWISE}}")
  (data (i32.const 24576) "{{VERIFY}}")
  ;; The words, by their places.
  (data (i32.const 512) "/trap")
  (data (i32.const 520) "/spin")
  (data (i32.const 528) "/grow")
  (data (i32.const 536) "/wait")
  (data (i32.const 544) "/fickle")
  (data (i32.const 552) "TRAP-LATER")
  (data (i32.const 568) "/nonsense")
  (data (i32.const 584) "/signed")
  (data (i32.const 592) "# unfit")

  (global $heap (mut i32) (i32.const 65536))
  (global $starts (mut i32) (i32.const 0))

  ;; Everything that is passed in may be forgotten when a call is over, so each call begins where the first one did.
  (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at
      (i32.and
        (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
        (i32.xor (i32.sub (local.get $align) (i32.const 1)) (i32.const -1))))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1))))))
    (local.get $at))

  (func $has (param $at i32) (param $length i32) (param $word i32) (param $word-length i32) (result i32)
    (local $i i32)
    (local $j i32)
    (block $no
      (loop $next
        (br_if $no (i32.gt_s (i32.add (local.get $i) (local.get $word-length)) (local.get $length)))
        (local.set $j (i32.const 0))
        (block $differs
          (loop $compare
            (br_if $differs
              (i32.ne
                (i32.load8_u (i32.add (local.get $at) (i32.add (local.get $i) (local.get $j))))
                (i32.load8_u (i32.add (local.get $word) (local.get $j)))))
            (local.set $j (i32.add (local.get $j) (i32.const 1)))
            (br_if $compare (i32.lt_u (local.get $j) (local.get $word-length))))
          (return (i32.const 1)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  (func (export "heddle:gateway/policy@0.1.0#configure") (param i32 i32 i32 i32 i32 i32) (result i32)
    (global.set $heap (i32.const 65536))
    (if (call $has (local.get 0) (local.get 1) (i32.const 592) (i32.const 7)) (then unreachable))
    ;; result<_, string>: ok.
    (i32.store8 (i32.const 256) (i32.const 0))
    (i32.const 256))

  (func (export "heddle:gateway/policy@0.1.0#start") (param i64) (param $at i32) (param $length i32) (result i32)
    (global.set $heap (i32.const 65536))
    (global.set $starts (i32.add (global.get $starts) (i32.const 1)))
    (if (call $has (local.get $at) (local.get $length) (i32.const 512) (i32.const 5)) (then unreachable))
    (if (call $has (local.get $at) (local.get $length) (i32.const 520) (i32.const 5)) (then (loop $for-ever (br $for-ever))))
    (if (call $has (local.get $at) (local.get $length) (i32.const 528) (i32.const 5))
      (then (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable))
    (call $over (i32.const 1024) (i32.const {{RESPOND_LENGTH}}))
    (if (call $has (local.get $at) (local.get $length) (i32.const 568) (i32.const 9))
      (then (call $over (i32.const 1024) (i32.const 1))))
    (if (call $has (local.get $at) (local.get $length) (i32.const 536) (i32.const 5))
      (then (call $wait (i32.const 8192) (i32.const {{READ_LENGTH}}))))
    (if (call $has (local.get $at) (local.get $length) (i32.const 584) (i32.const 7))
      (then (call $wait (i32.const 24576) (i32.const {{VERIFY_LENGTH}}))))
    ;; The first start of an instance asks for one thing, the others for another: no replay comes out the same.
    (if (call $has (local.get $at) (local.get $length) (i32.const 544) (i32.const 7))
      (then
        (call $wait
          (select (i32.const 8192) (i32.const 16384) (i32.eq (global.get $starts) (i32.const 1)))
          (i32.const {{READ_LENGTH}}))))
    (i32.const 256))

  ;; A decision: the step, and whether the exchange waits.
  (func $over (param $step i32) (param $length i32)
    (i32.store (i32.const 256) (local.get $step))
    (i32.store (i32.const 260) (local.get $length))
    (i32.store8 (i32.const 264) (i32.const 0)))

  (func $wait (param $step i32) (param $length i32)
    (call $over (local.get $step) (local.get $length))
    (i32.store8 (i32.const 264) (i32.const 1)))

  (func (export "heddle:gateway/policy@0.1.0#on") (param i64) (param $at i32) (param $length i32) (result i32)
    (global.set $heap (i32.const 65536))
    (if (call $has (local.get $at) (local.get $length) (i32.const 552) (i32.const 10)) (then unreachable))
    (call $over (i32.const 1024) (i32.const {{RESPOND_LENGTH}}))
    ;; The verdict on a signature, by its place among the events: on it goes with the body.
    (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 1))
      (then (call $wait (i32.const 8192) (i32.const {{READ_LENGTH}}))))
    (i32.const 256))

  (func (export "heddle:gateway/policy@0.1.0#end") (param i64)))
