//! Tags of functions.

use std::collections::BTreeMap;

use rusqlite::params;

use crate::database::Registry;
use crate::error::RegistryError;
use crate::names::FunctionName;

impl Registry {
    /// A function's tags.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn tags(&self, name: &FunctionName) -> Result<BTreeMap<String, String>, RegistryError> {
        let sql = "SELECT key, value FROM tags WHERE function = ?1";
        Ok(self.rows(sql, [name.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?.into_iter().collect())
    }

    /// Adds and removes tags of a function that is there.
    ///
    /// # Errors
    /// [`RegistryError::NoFunction`] when the function is gone, [`RegistryError::Database`].
    pub fn change_tags(
        &self,
        name: &FunctionName,
        add: &BTreeMap<String, String>,
        remove: &[String],
    ) -> Result<(), RegistryError> {
        self.write_for(name, "changing tags", |transaction| {
            for key in remove {
                transaction.execute(
                    "DELETE FROM tags WHERE function = ?1 AND key = ?2",
                    params![name.as_str(), key],
                )?;
            }
            for (key, value) in add {
                let row = params![name.as_str(), key, value];
                transaction.execute("INSERT OR REPLACE INTO tags VALUES (?1, ?2, ?3)", row)?;
            }
            Ok(())
        })
    }
}
