"""
DreamerV4: a latent transformer that imagines frames, the global model of ego-centric worlds.

How a training uses the parts, in order:

1. ``config.size(preset, actions, proprioceptive numbers)`` gives all sizes.
2. Tokenizer: ``Tokenizer(config.tokenizer, losses.perceptual(kind, weights))``; ``standardise`` it
   on some hundred frames, then minimise the ``total`` of ``tokenizer(frames, proprio, ...)`` on
   short windows, ``perceive`` off at first.  A square error below that of the mean image and a
   deviation of the latents in [0.2, 0.9] tell that it works.
3. ``latents.build`` encodes the dataset once; ``latents.LatentPlay`` draws windows of it.
4. Dynamics: ``shortcut.plan(config, seed, update, updates, micro)`` tells length and kind of every
   micro-batch, alike on all processes; minimise ``Objective(dynamics, config)(Batch(...), kind)``.
   Wrap the Objective, not the network, for distributed training; its running RMS are part of its
   state.
5. Reward: the same with ``Objective(dynamics, config, head)`` and windows drawn with
   ``labelled=0.5``; then ``head.calibrate(head.raw(objective.as_context(batch)), reward)`` on
   held-out frames, drawn evenly.
6. ``Dreamer4(config)`` takes the three state dicts; ``describe`` and ``rebuild`` are what a
   checkpoint holds (key ``model`` of stage 'global', see ``world.load_model``).
7. ``world.Dreamer4World`` is the global model of the policy's training; ``rollout.Rollout`` the
   same in latents, with chunks of several frames for planning.
"""
