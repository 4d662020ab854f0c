from offline import offline as offline
