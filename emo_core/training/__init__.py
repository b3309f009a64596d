"""Training: the puppet world, the stages, the trainer and the meters. Not needed to animate."""
