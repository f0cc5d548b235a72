"""The networks: global, local and reward models, actor and critics."""
